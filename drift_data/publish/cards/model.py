"""Writes the card of a trained model from the manifests of its run. It reads no row, no weight, and decides nothing.

As in `render`, text of manifests cannot become mark-up, folders of this machine show by their last part only, and
nothing depends on the time: equal runs have equal cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from drift_data.publish.cards.data import card_environment, card_text, known_sources
from drift_data.report.health import check_health, read_health, tabulate_health
from drift_data.report.options import AlarmOptions
from drift_data.workspace import (
    CARD,
    Manifest,
    UserError,
    Workspace,
    locate_output,
    locate_run,
    replaced_file,
)

# Where and how fast it was computed: it determines nothing.
_OF_THE_MACHINE = {
    "batch_size", "checkpoint_steps", "engine", "gradient_checkpointing", "iteration", "launch", "method",
    "per_device_batch", "recheck", "report_to", "server", "shard", "threads", "vllm",
}  # fmt: skip


def write_model_card(workspace: Workspace, run: str, iteration: int, options: AlarmOptions) -> Path:
    """Write `runs/<run>/iter<k>/model/README.md`, unless it says the same already, and return its path.

    A card is no part of a model's digest: it may be written again when the model has been evaluated.
    """
    folder = workspace.path(_model(run, iteration))
    card, path = render_model_card(workspace, run, iteration, options), folder / CARD
    if not path.is_file() or path.read_text(encoding="utf-8") != card:
        # The temporary file lies beside the model's folder: one that a kill leaves inside would change its digest.
        with replaced_file(path, folder.parent) as part:
            part.write_text(card, encoding="utf-8")
    return path


def render_model_card(
    workspace: Workspace,
    run: str,
    iteration: int,
    options: AlarmOptions,
    repo: str | None = None,
    licence: str | None = None,
) -> str:
    """Return the README.md of a model.

    Args:
        workspace: holds the run.
        run: its name.
        iteration: of the model, from 0.
        options: thresholds of the alarms.
        repo: owner/name on the Hub; None: the folder it lies in.
        licence: the Hub's id; None: that of the base model, where it is known.

    Raises:
        UserError: the model, or something it was made from, is missing or stale.
    """
    name = _model(run, iteration)
    lineage = workspace.lineage([name])
    own, first = lineage[name], lineage[_model(run, 0)]
    base = str(first.made_by.get("policy") or first.made_by.get("model") or "not known")
    on_the_hub = first.files.get(f"base:{base}", "").startswith("revision:")
    known: dict[str, str] = yaml.safe_load(card_text("models.yaml"))
    licence = licence or known.get(base.split("@")[0], "other")
    rows = [row for row in read_health(workspace, run) if row.iteration <= iteration]
    checks = check_health(rows, options)
    methods: dict[str, str] = yaml.safe_load(card_text("methods.yaml"))
    trained = [k for k in range(iteration + 1) if "warm_start" not in lineage[_model(run, k)].made_by]
    rollouts = lineage.get(locate_output(run, iteration, "rollouts"))
    return (
        card_environment()
        .get_template("model.md.jinja")
        .render(
            front_matter=yaml.safe_dump(
                _front_matter(licence, base.split("@")[0] if on_the_hub else None, _sources(lineage)),
                sort_keys=False,
                allow_unicode=True,
            ),
            title=repo.split("/")[-1] if repo else f"{run} M{iteration}",
            place=repo or name,
            base=_public(base),
            iteration=iteration,
            trained=bool(trained),
            warm=0 in trained,
            complaints="dsat" in lineage or "seed" in lineage,
            reason=first.made_by.get("reason", ""),
            about=methods.get(str(own.options.get("method")), ""),
            alarms=[check for check in checks if check.alarm],
            checks=len(checks),
            precision=own.made_by.get("precision_saved"),
            steps=[_step(lineage, run, k) for k in trained],
            options={
                "Training.": _options(own) if trained else {},
                "Rollouts.": _options(rollouts) if rollouts else {},
            },
            data=_data(lineage, run, first),
            sources=[known_sources()[source] for source in _sources(lineage) if source in known_sources()],
            health_models=[row.heading for row in rows],
            health=tabulate_health(rows),
            scores=_scores(workspace, run, iteration),
            licence=licence,
            judge=_judge(lineage),
        )
    )


def _model(run: str, iteration: int) -> str:
    return locate_output(run, iteration, "model")


def _front_matter(licence: str, base: str | None, sources: list[str]) -> dict[str, Any]:
    datasets = [
        known_sources()[source]["id"] for source in sources if "id" in known_sources().get(source, {})
    ]
    return {
        "license": licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": base} if base else {}),
        **({"datasets": datasets} if datasets else {}),
        "tags": ["dpo", "user-feedback", "drift"],
    }


def _sources(lineage: Mapping[str, Manifest]) -> list[str]:
    """Return the sources of the data that the model was made from."""
    converted = (m.options.get("source") for m in lineage.values() if m.stage == "convert")
    return sorted({str(source) for source in converted if source})


def _judge(lineage: Mapping[str, Manifest]) -> str | None:
    labels = [m for name, m in lineage.items() if name.startswith("labels/")]
    judge = labels[-1].made_by.get("judge") if labels else None
    return str(judge) if judge else None


def _step(lineage: Mapping[str, Manifest], run: str, iteration: int) -> dict[str, Any]:
    """Return how one model of the chain was trained."""
    model, pairs = lineage[_model(run, iteration)], lineage[locate_output(run, iteration, "pairs")]
    return {
        "model": f"M{iteration}",
        "method": model.options.get("method", ""),
        "pairs": pairs.rows_out,
        "dropped": pairs.dropped,
        "policy": _short(str(model.made_by.get("policy", ""))),
        "reference": _short(str(model.made_by.get("reference", ""))),
        "steps": model.results.get("steps"),
    }


def _options(manifest: Manifest) -> dict[str, object]:
    given = {key: value for key, value in manifest.options.items() if key not in _OF_THE_MACHINE}
    return {key: _public(value) if isinstance(value, str) else value for key, value in given.items()}


def _data(lineage: Mapping[str, Manifest], run: str, first: Manifest) -> list[dict[str, Any]]:
    """Return the tables behind the model, inputs first, and the base model."""
    rows = [
        {"name": name.removeprefix(f"{locate_run(run)}/"), "rows": m.rows_out, "digest": m.digest}
        for name, m in lineage.items()
        if not name.endswith(("/model", "/rollouts"))
    ]
    outside = {name: digest for name, digest in first.files.items() if name.startswith("base:")}
    return rows + [
        {"name": f"base model {_public(name.removeprefix('base:'))}", "rows": None, "digest": digest}
        for name, digest in outside.items()
    ]


def _scores(workspace: Workspace, run: str, iteration: int) -> list[dict[str, Any]]:
    """Return mean, standard error and n of the evaluations of the base model and of the iterates, if current."""
    rows = []
    for label in ("base", *(f"iter{k}" for k in range(iteration + 1))):
        for kind in ("eval", "heldout"):
            try:
                results = workspace.require(locate_output(run, label, kind)).results
            except UserError:  # not made, or of another model
                continue
            for measure, stated in results.items():
                if isinstance(stated, dict) and {"mean", "stderr", "n"} <= stated.keys():
                    name = measure if kind == "eval" else f"held-out {measure}"
                    rows.append({"measure": name, "model": label.replace("iter", "M"), **stated})
    return sorted(rows, key=lambda row: str(row["measure"]))


def _short(name: str) -> str:
    """Return "M1" for a model of the run, and of any other what may be shown."""
    parts = PurePath(name).parts
    if len(parts) == 4 and parts[0] == "runs":
        return parts[2].replace("iter", "M")
    return _public(name)


def _public(text: str) -> str:
    """Return a name, or of a folder on this machine the last part."""
    return PurePath(text).name if text.startswith(("/", ".", "~")) else text
