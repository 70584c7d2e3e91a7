"""The DRIFT loop over a workspace: warm start on seed pairs, then rollouts, pairs and DPO for each iteration.

Every step is one stage of `Workspace.run`, so a killed run goes on at the stage that was cut, and a second
call makes nothing again. Knows folders and the order of the steps; what a step computes is elsewhere, and
imported (with torch) only when a step has to be made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from drift_data.workspace import Build, UserError, Workspace
from drift_train.base import Base, link_model, resolve_base
from drift_train.examples import Example, dsat_examples, preference_examples, slice_of_iteration
from drift_train.methods import METHODS
from drift_train.options import LoopOptions, TrainOptions
from drift_train.pairs import LENGTH_STOP, TRAIN, Candidate, PairFilter, write_pairs

LOGS = "logs"  # folder of the workspace for the engines' own logs
_READ = [
    "conversation_id",
    "turn",
    "sample",
    "kind",
    "messages",
    "completion",
    "finish_reason",
]  # of rollouts


def warm(workspace: Workspace, run: str, base: str, options: LoopOptions) -> bool:
    """Make `runs/<run>/iter0/{pairs,model}`: DPO from `base` on the `seed` table.

    Args:
        workspace: needs `seed`, unless `options.warm` is None.
        run: name of the run.
        base: a folder of the workspace ("base"), any other local folder, or a Hub id.
        options: of the whole run.

    Returns:
        True when something was made, False when all was there already.
    """
    start = resolve_base(workspace, base)
    if options.warm is None:
        return _take_base(workspace, run, start, "the recipe has no warm start", options)
    made = _seed_pairs(workspace, run, start, options, options.warm)
    count = workspace.require(_name(run, 0, "pairs")).rows_out
    if count < options.min_seed_pairs:
        reason = f"{count} seed pairs are fewer than min_seed_pairs {options.min_seed_pairs}"
        return _take_base(workspace, run, start, reason, options) or made
    return _train(workspace, run, 0, start, options.warm, "seed") or made


def iterate(workspace: Workspace, run: str, n: int, base: str, options: LoopOptions) -> bool:
    """Make `runs/<run>/iter<n>/{rollouts,pairs,model}`, and what is missing before it.

    Args:
        workspace: needs the table that `options.examples` names, and `seed` for the warm start.
        run: name of the run.
        n: number of the iteration, from 1.
        base: as for `warm`.
        options: of the whole run.

    Returns:
        True when something was made, False when all was there already.
    """
    if n < 1:
        raise UserError(
            f"Iterations are counted from 1, so there is no iteration {n}. M0 is made by `make warm`."
        )
    made = warm(workspace, run, base, options)
    start = resolve_base(workspace, base)
    for k in range(1, n + 1):
        made |= _rollouts(workspace, run, k, options)
        made |= _pairs(workspace, run, k, options)
        made |= _train(workspace, run, k, start, options.train, options.method)
    return made


def _name(run: str, iteration: int, what: str) -> str:
    return f"runs/{run}/iter{iteration}/{what}"


def _seed_pairs(
    workspace: Workspace, run: str, base: Base, options: LoopOptions, training: TrainOptions
) -> bool:
    name = _name(run, 0, "pairs")

    def build(stage: Build) -> None:
        from drift_train.policy import load_renderer

        keep = PairFilter(load_renderer(base.path), training.max_length, options.pairs.drop_leaks_in_seed)
        shortened = 0

        def candidates() -> Iterator[Candidate]:
            nonlocal shortened
            for batch in workspace.batches("seed"):
                for row in batch.to_pylist():
                    if row["split"] != TRAIN:
                        continue
                    chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
                    prompt = keep.shortened(row["prompt"], chosen, rejected)
                    shortened += len(prompt) < len(row["prompt"])
                    yield Candidate(
                        row["conversation_id"], row["turn"], row["split"], prompt, chosen, rejected
                    )

        write_pairs(stage[name], candidates(), keep, "seed", "logs", f"{run} iter0 pairs")
        stage[name].results["shortened_prompts"] = shortened

    return workspace.run(
        "warm",
        [name],
        build,
        options={"max_length": training.max_length, **options.pairs.model_dump()},
        inputs=["seed", *base.inputs],
        files=base.files,
    )


def _take_base(workspace: Workspace, run: str, base: Base, reason: str, options: LoopOptions) -> bool:
    """Make iter0's model the base model itself, and say so."""
    name = _name(run, 0, "model")
    print(f"{run}: no warm start: {reason}. M0 is the base model {base.name}.", file=sys.stderr)

    def build(stage: Build) -> None:
        workspace.path(_name(run, 0, "metrics.jsonl")).unlink(missing_ok=True)  # of an earlier warm start
        link_model(base.path, stage[name].folder)
        stage[name].made_by = {"model": base.name, "warm_start": False, "reason": reason}

    return workspace.run(
        "warm",
        [name],
        build,
        options={"warm_start": False, "reason": reason},
        inputs=base.inputs,
        files=base.files,
    )


def _rollouts(workspace: Workspace, run: str, iteration: int, options: LoopOptions) -> bool:
    name, policy = _name(run, iteration, "rollouts"), _name(run, iteration - 1, "model")
    rollout = options.rollout

    def build(stage: Build) -> None:
        from drift_train.rollout_stage import write_rollouts

        examples = slice_of_iteration(_examples(workspace, options), iteration, rollout)
        if not examples:
            raise UserError(
                f"{workspace.path(options.examples)} has no row of split train, so nothing can be sampled. "
                "Look at its dropped rows, or mine with other options."
            )
        write_rollouts(
            stage[name],
            workspace.path(policy),
            examples,
            METHODS[options.method],
            rollout,
            max_length=options.train.max_length,
            iteration=iteration,
            log_folder=workspace.path(LOGS),
            title=f"{run} iter{iteration} rollouts",
        )

    return workspace.run(
        "iter",
        [name],
        build,
        options={
            "method": options.method,
            "iteration": iteration,
            "max_length": options.train.max_length,
            **rollout.identity(),
        },
        inputs=[options.examples, policy],
    )


def _pairs(workspace: Workspace, run: str, iteration: int, options: LoopOptions) -> bool:
    name, rollouts = _name(run, iteration, "pairs"), _name(run, iteration, "rollouts")
    policy = workspace.path(
        _name(run, iteration - 1, "model")
    )  # its tokenizer; the rollouts name it as their input

    def build(stage: Build) -> None:
        from drift_train.policy import load_renderer

        keep = PairFilter(load_renderer(policy), options.train.max_length, options.pairs.drop_leaks)
        write_pairs(
            stage[name],
            _candidates(workspace, rollouts, options),
            keep,
            options.method,
            f"iter{iteration - 1}",
            f"{run} iter{iteration} pairs",
        )

    return workspace.run(
        "iter",
        [name],
        build,
        options={
            "method": options.method,
            "max_length": options.train.max_length,
            **options.pairs.model_dump(),
        },
        inputs=[options.examples, rollouts],
    )


def _candidates(workspace: Workspace, rollouts: str, options: LoopOptions) -> Iterator[Candidate]:
    """Join rollouts with their examples by key, and let the method say which reply is which."""
    method = METHODS[options.method]
    examples = {example.key: example for example in _examples(workspace, options)}
    groups: dict[tuple[str, int, int], list[dict[str, Any]]] = {}
    for batch in workspace.batches(rollouts, columns=_READ):  # tokens as Python numbers would fill the memory
        for row in batch.to_pylist():
            groups.setdefault((row["conversation_id"], row["turn"], row["sample"]), []).append(row)
    for (conversation_id, turn, _), rows in groups.items():
        example = examples[conversation_id, turn]
        chosen, rejected = method.pair({row["kind"]: row["completion"] for row in rows}, example.rejected)
        yield Candidate(
            conversation_id,
            turn,
            example.split,
            method.prompt(rows[0]["kind"], rows[0]["messages"]),
            chosen,
            rejected,
            cut=any(row["finish_reason"] == "length" for row in rows),
        )


def _examples(workspace: Workspace, options: LoopOptions) -> Iterable[Example]:
    read = dsat_examples if options.examples == "dsat" else preference_examples
    return (example for example in read(workspace) if example.split == TRAIN)


def _train(
    workspace: Workspace, run: str, iteration: int, base: Base, training: TrainOptions, method: str
) -> bool:
    name, pairs = _name(run, iteration, "model"), _name(run, iteration, "pairs")
    before = [_name(run, iteration - 1, "model")] if iteration else list(base.inputs)
    policy = workspace.path(before[0]) if iteration else base.path
    from_base = training.reference == "base" or not iteration
    reference = base.path if from_base else policy

    def build(stage: Build) -> None:
        from drift_train.dpo import train

        rows = workspace.read(pairs).to_pylist()
        if not rows:
            dropped = workspace.require(pairs).dropped
            raise UserError(
                f"No pair is left for {run} iter{iteration}; dropped: {dropped}. "
                + ("Raise rollout.max_new_tokens." if LENGTH_STOP in dropped else "Look at the dropped rows.")
            )
        output = stage[name]
        output.results = train(
            policy,
            reference,
            rows,
            output.folder,
            workspace.path(_name(run, iteration, "metrics.jsonl")),
            training,
            iteration=iteration,
            method=method,
            title=f"{run} iter{iteration} DPO",
        )
        output.made_by = {
            "policy": before[0] if iteration else base.name,
            "reference": base.name if from_base else before[0],
            "precision_saved": "float32",
        }

    return workspace.run(
        "iter" if iteration else "warm",
        [name],
        build,
        options={"method": method, "iteration": iteration, **training.model_dump(mode="json")},
        inputs=list(dict.fromkeys([pairs, *before, *(base.inputs if from_base else ())])),
        files=base.files if from_base else {},
    )
