"""Renders the card of a trained model from the manifests of its run; it reads neither tables nor weights.

As in `cards/data.py`, text of manifests cannot become mark-up. Of folders on this machine only the last part of the
path shows, and nothing depends on the time: equal runs have equal cards.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import yaml

from drift_data.publish.cards.data import load_known_sources, make_card_environment, read_card_file
from drift_data.report.health import check_health, read_health, tabulate_health
from drift_data.report.options import AlarmOptions
from drift_data.workspace import (
    CARD,
    Manifest,
    UserError,
    Workspace,
    locate_output,
    locate_run,
    replace_file,
)

# Options that say where and how fast a model was computed. They do not change the model, so the card leaves them out.
_MACHINE_OPTIONS = {
    "batch_size", "checkpoint_steps", "engine", "gradient_checkpointing", "iteration", "launch", "method",
    "per_device_batch", "recheck", "report_to", "server", "shard", "threads", "vllm",
}  # fmt: skip


def write_model_card(workspace: Workspace, run: str, iteration: int, options: AlarmOptions) -> Path:
    """Write `runs/<run>/iter<k>/model/README.md`, unless its text would be the same, and return its path.

    The digest of a model leaves the card out, so the card may be written again when the model has been evaluated.
    """
    folder = workspace.path(_locate_model(run, iteration))
    card, path = render_model_card(workspace, run, iteration, options), folder / CARD
    if not path.is_file() or path.read_text(encoding="utf-8") != card:
        # The temporary file lies beside the model's folder, because a file left inside by a kill would change its digest.
        with replace_file(path, folder.parent) as part:
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
        run: name of the run.
        iteration: number of the model in the run, from 0.
        options: thresholds of the alarms.
        repo: owner/name on the Hub; None: the card names the model's folder instead.
        licence: the Hub's id of a licence; None: the licence of the base model, where it is known.

    Raises:
        UserError: the model, or something it was made from, is missing or stale.
    """
    name = _locate_model(run, iteration)
    lineage = workspace.lineage([name])
    own, first = lineage[name], lineage[_locate_model(run, 0)]
    base = str(first.made_by.get("policy") or first.made_by.get("model") or "not known")
    on_the_hub = first.files.get(f"base:{base}", "").startswith("revision:")
    known: dict[str, str] = yaml.safe_load(read_card_file("models.yaml"))
    licence = licence or known.get(base.split("@")[0], "other")
    rows = [row for row in read_health(workspace, run) if row.iteration <= iteration]
    checks = check_health(rows, options)
    methods: dict[str, str] = yaml.safe_load(read_card_file("methods.yaml"))
    trained = [k for k in range(iteration + 1) if "warm_start" not in lineage[_locate_model(run, k)].made_by]
    rollouts = lineage.get(locate_output(run, iteration, "rollouts"))
    return (
        make_card_environment()
        .get_template("model.md.jinja")
        .render(
            front_matter=yaml.safe_dump(
                _build_model_front_matter(
                    licence, base.split("@")[0] if on_the_hub else None, _find_sources(lineage)
                ),
                sort_keys=False,
                allow_unicode=True,
            ),
            title=repo.split("/")[-1] if repo else f"{run} M{iteration}",
            place=repo or name,
            base=_hide_folder(base),
            iteration=iteration,
            trained=bool(trained),
            warm=0 in trained,
            complaints="dsat" in lineage or "seed" in lineage,
            reason=first.made_by.get("reason", ""),
            about=methods.get(str(own.options.get("method")), ""),
            alarms=[check for check in checks if check.alarm],
            checks=len(checks),
            precision=own.made_by.get("precision_saved"),
            steps=[_describe_step(lineage, run, k) for k in trained],
            options={
                "Training.": _choose_options(own) if trained else {},
                "Rollouts.": _choose_options(rollouts) if rollouts else {},
            },
            data=_list_inputs(lineage, run, first),
            sources=[
                load_known_sources()[source]
                for source in _find_sources(lineage)
                if source in load_known_sources()
            ],
            health_models=[row.heading for row in rows],
            health=tabulate_health(rows),
            scores=_collect_scores(workspace, run, iteration),
            licence=licence,
            judge=_find_judge(lineage),
        )
    )


def _locate_model(run: str, iteration: int) -> str:
    """Return the folder of a model in the workspace."""
    return locate_output(run, iteration, "model")


def _build_model_front_matter(licence: str, base: str | None, sources: list[str]) -> dict[str, Any]:
    """Return the YAML head of a model card: how the Hub shows the model."""
    datasets = [
        load_known_sources()[source]["id"]
        for source in sources
        if "id" in load_known_sources().get(source, {})
    ]
    return {
        "license": licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": base} if base else {}),
        **({"datasets": datasets} if datasets else {}),
        "tags": ["dpo", "user-feedback", "drift"],
    }


def _find_sources(lineage: Mapping[str, Manifest]) -> list[str]:
    """Return the sources of the data that the model was made from."""
    converted = (m.options.get("source") for m in lineage.values() if m.stage == "convert")
    return sorted({str(source) for source in converted if source})


def _find_judge(lineage: Mapping[str, Manifest]) -> str | None:
    """Return the judge whose labels the data was mined from, if there is one."""
    labels = [m for name, m in lineage.items() if name.startswith("labels/")]
    judge = labels[-1].made_by.get("judge") if labels else None
    return str(judge) if judge else None


def _describe_step(lineage: Mapping[str, Manifest], run: str, iteration: int) -> dict[str, Any]:
    """Return how one model of the run was trained: its line in the card's first table."""
    model, pairs = lineage[_locate_model(run, iteration)], lineage[locate_output(run, iteration, "pairs")]
    return {
        "model": f"M{iteration}",
        "method": model.options.get("method", ""),
        "pairs": pairs.rows_out,
        "dropped": pairs.dropped,
        "policy": _shorten_model_name(str(model.made_by.get("policy", ""))),
        "reference": _shorten_model_name(str(model.made_by.get("reference", ""))),
        "steps": model.results.get("steps"),
    }


def _choose_options(manifest: Manifest) -> dict[str, object]:
    """Return the options that determine the model, with folders of this machine cut to their last part."""
    given = {key: value for key, value in manifest.options.items() if key not in _MACHINE_OPTIONS}
    return {key: _hide_folder(value) if isinstance(value, str) else value for key, value in given.items()}


def _list_inputs(lineage: Mapping[str, Manifest], run: str, first: Manifest) -> list[dict[str, Any]]:
    """Return name, rows and digest of the tables behind the model, inputs first, and of the base model."""
    rows = [
        {"name": name.removeprefix(f"{locate_run(run)}/"), "rows": m.rows_out, "digest": m.digest}
        for name, m in lineage.items()
        if not name.endswith(("/model", "/rollouts"))
    ]
    outside = {name: digest for name, digest in first.files.items() if name.startswith("base:")}
    return rows + [
        {"name": f"base model {_hide_folder(name.removeprefix('base:'))}", "rows": None, "digest": digest}
        for name, digest in outside.items()
    ]


def _collect_scores(workspace: Workspace, run: str, iteration: int) -> list[dict[str, Any]]:
    """Return mean, standard error and n of every current evaluation of the base model and of the run's models."""
    rows = []
    for label in ("base", *(f"iter{k}" for k in range(iteration + 1))):
        for kind in ("eval", "heldout"):
            try:
                results = workspace.require(locate_output(run, label, kind)).results
            except UserError:  # there is no evaluation, or it is stale
                continue
            for measure, stated in results.items():
                if isinstance(stated, dict) and {"mean", "stderr", "n"} <= stated.keys():
                    name = measure if kind == "eval" else f"held-out {measure}"
                    rows.append({"measure": name, "model": label.replace("iter", "M"), **stated})
    return sorted(rows, key=lambda row: str(row["measure"]))


def _shorten_model_name(name: str) -> str:
    """Return "M1" for a model of a run, and any other name as `_hide_folder` shows it."""
    parts = PurePath(name).parts
    if len(parts) == 4 and parts[0] == "runs":
        return parts[2].replace("iter", "M")
    return _hide_folder(name)


def _hide_folder(text: str) -> str:
    """Return a name as it is, and for a folder on this machine only the last part of its path."""
    return PurePath(text).name if text.startswith(("/", ".", "~")) else text
