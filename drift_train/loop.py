"""The DRIFT loop over a workspace: warm start on seed pairs, then rollouts, pairs and DPO for each iteration.

Every step is one stage of `Workspace.run`, so a killed run goes on at the stage that was cut, and a second
call makes nothing again. Knows folders and the order of the steps; what a step computes is elsewhere, and
imported (with torch) only when a step has to be made.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from drift_data.schema import DROPPED
from drift_data.workspace import Output, UserError, Workspace
from drift_train.dpo.checkpoints import partial_of
from drift_train.methods import METHODS
from drift_train.methods.examples import Example, read_examples, slice_of_iteration
from drift_train.models.find import Base, link_model, resolve_base
from drift_train.options import HealthOptions, LoopOptions, RewardOptions, TrainOptions
from drift_train.pairs.candidates import READ, rollout_candidates, seed_candidates, table_of, usable_examples
from drift_train.pairs.filters import LENGTH_STOP, TRAIN, PairFilter, write_pairs

_SCRATCH = ".tmp"  # folder of the workspace that every stage empties before it begins
LOGS = "logs"  # folder of the workspace for the engines' own logs
_SCORED = 256  # replies whose rewards are computed together
_NO_FEEDBACK = {
    "reason": "no_feedback",
    "detail": "nothing is said about the failing reply, so it cannot guide",
}


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
    return _warm(workspace, run, resolve_base(workspace, base), options)


def _warm(workspace: Workspace, run: str, start: Base, options: LoopOptions) -> bool:
    if options.warm is None:
        return _take_base(workspace, run, start, "the recipe has no warm start", options)
    made = _seed_pairs(workspace, run, start, options, options.warm)
    count = workspace.require(_name(run, 0, "pairs")).rows_out
    if count < options.min_seed_pairs:
        reason = f"{count} seed pairs are fewer than min_seed_pairs {options.min_seed_pairs}"
        return _take_base(workspace, run, start, reason, options) or made
    if workspace.manifest(_name(run, 0, "model")) is None:
        seeds = (example for example in read_examples(workspace, "seed") if example.split == TRAIN)
        _rehearse(
            workspace, start.path, start.path, seeds, options.warm, f"{run} rehearsal of the warm start"
        )
    return _train(workspace, run, 0, start, options.warm, "seed") or made


def iterate(workspace: Workspace, run: str, n: int, base: str, options: LoopOptions) -> bool:
    """Make `runs/<run>/iter<n>/{rollouts,pairs,model,health}`, `rewards` where samples are ranked, and what is missing
    before it.

    Args:
        workspace: needs the table that the method reads, and `seed` for the warm start.
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
    if workspace.manifest(_name(run, 1, "rollouts")) is None:
        _check_inputs(workspace, options)
    start = resolve_base(workspace, base)  # once: of a folder it reads every weight
    made = _warm(workspace, run, start, options)
    for k in range(1, n + 1):
        if k == 1 and workspace.manifest(_name(run, 1, "rollouts")) is None:
            policy = workspace.path(_name(run, 0, "model"))
            reference = start.path if options.train.reference == "base" else policy
            examples, _ = usable_examples(workspace, options)
            first = slice_of_iteration(examples, 1, options.asked())
            _rehearse(workspace, policy, reference, first, options.train, f"{run} rehearsal of DPO")
        made |= _rollouts(workspace, run, k, options)
        if options.ranking:
            made |= _rewards(workspace, run, k, options.ranking)
        made |= _pairs(workspace, run, k, options)
        made |= _train(workspace, run, k, start, options.train, options.method)
        if options.health is not None:
            made |= _health(workspace, run, k, start, options.health)
    return made


def _check_inputs(workspace: Workspace, options: LoopOptions) -> None:
    """Say before the warm start is trained and hours are spent on sampling what would stop an iteration.

    Raises:
        UserError: there is nothing to learn from, or the reward model is none.
    """
    usable_examples(workspace, options)
    if options.ranking:
        from drift_train.pairs.reward import RewardModel

        RewardModel(resolve_base(workspace, options.ranking.model, "reward model").path, options.ranking)


def _name(run: str, iteration: int, what: str) -> str:
    return f"runs/{run}/iter{iteration}/{what}"


def _seed_pairs(
    workspace: Workspace, run: str, base: Base, options: LoopOptions, training: TrainOptions
) -> bool:
    name = _name(run, 0, "pairs")

    def build(stage: Mapping[str, Output]) -> None:
        from drift_train.models.load import load_renderer

        keep = PairFilter(load_renderer(base.path), training.max_length, options.pairs.drop_leaks_in_seed)
        write_pairs(stage[name], seed_candidates(workspace, keep), keep, "seed", "logs", f"{run} iter0 pairs")

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

    def build(stage: Mapping[str, Output]) -> None:
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


def _rehearse(
    workspace: Workspace,
    policy: Path,
    reference: Path,
    examples: Iterable[Example],
    training: TrainOptions,
    title: str,
) -> None:
    """Make two updates and forget them: what would stop the training stops the run before hours are spent."""
    from drift_train.dpo.rehearsal import rehearse

    folder = workspace.path(_SCRATCH)
    with workspace.lock():
        folder.mkdir(exist_ok=True)
        rehearse(policy, reference, examples, training, folder, title)


def _rollouts(workspace: Workspace, run: str, iteration: int, options: LoopOptions) -> bool:
    name, policy = _name(run, iteration, "rollouts"), _name(run, iteration - 1, "model")
    rollout = options.asked()

    def build(stage: Mapping[str, Output]) -> None:
        from drift_train.rollout.stage import write_rollouts

        usable, silent = usable_examples(workspace, options)
        output = stage[name]
        write_rollouts(
            output,
            workspace.path(policy),
            slice_of_iteration(usable, iteration, rollout),
            METHODS[options.method],
            rollout,
            max_length=options.train.max_length,
            iteration=iteration,
            log_folder=workspace.path(LOGS),
            title=f"{run} iter{iteration} rollouts",
        )
        output.drop(
            [{"conversation_id": e.conversation_id, "turn": e.turn, **_NO_FEEDBACK} for e in silent], DROPPED
        )
        output.rows_in = (output.rows_in or 0) + len(silent)

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
        inputs=[table_of(options), policy],
    )


def _rewards(workspace: Workspace, run: str, iteration: int, ranking: RewardOptions) -> bool:
    name, rollouts = _name(run, iteration, "rewards"), _name(run, iteration, "rollouts")
    model = resolve_base(workspace, ranking.model, "reward model")

    def build(stage: Mapping[str, Output]) -> None:
        from drift_train.pairs.reward import RewardModel, write_rewards

        output, reward = stage[name], RewardModel(model.path, ranking)
        batches, total = workspace.batches(rollouts, READ, _SCORED), workspace.require(rollouts).rows_out
        write_rewards(output, batches, total, reward, f"{run} iter{iteration} rewards")
        output.made_by = {"reward_model": model.name, "max_length": reward.max_length}
        output.results["shortened"] = reward.shortened

    return workspace.run(
        "iter",
        [name],
        build,
        options=ranking.model_dump(mode="json", exclude={"batch_size"}),
        inputs=[rollouts, *model.inputs],
        files=model.files,
    )


def _pairs(workspace: Workspace, run: str, iteration: int, options: LoopOptions) -> bool:
    name, rollouts = _name(run, iteration, "pairs"), _name(run, iteration, "rollouts")
    rewards = _name(run, iteration, "rewards") if options.ranking else None
    policy = workspace.path(
        _name(run, iteration - 1, "model")
    )  # its tokenizer; the rollouts name it as their input

    def build(stage: Mapping[str, Output]) -> None:
        from drift_train.models.load import load_renderer

        keep = PairFilter(load_renderer(policy), options.train.max_length, options.pairs.drop_leaks)
        write_pairs(
            stage[name],
            rollout_candidates(workspace, rollouts, rewards, options),
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
            "guidance": options.guided,
            "select": options.rollout.select,
            "max_length": options.train.max_length,
            **options.pairs.model_dump(),
        },
        inputs=[table_of(options), rollouts, *([rewards] if rewards else [])],
    )


def _train(
    workspace: Workspace, run: str, iteration: int, base: Base, training: TrainOptions, method: str
) -> bool:
    name, pairs = _name(run, iteration, "model"), _name(run, iteration, "pairs")
    before = [_name(run, iteration - 1, "model")] if iteration else list(base.inputs)
    policy = workspace.path(before[0]) if iteration else base.path
    from_base = training.reference == "base" or not iteration
    reference = base.path if from_base else policy
    metrics = workspace.path(_name(run, iteration, "metrics.jsonl"))

    def build(stage: Mapping[str, Output]) -> None:
        from drift_train.dpo.train import train

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
            metrics,
            training,
            iteration=iteration,
            method=method,
            title=f"{run} iter{iteration} DPO",
            unfinished=output.unfinished,
        )
        output.made_by = {
            "policy": before[0] if iteration else base.name,
            "reference": base.name if from_base else before[0],
            "precision": output.results.pop("precision"),
            "precision_saved": output.results.pop("precision_saved"),
        }

    made = workspace.run(
        "iter" if iteration else "warm",
        [name],
        build,
        options={"method": method, "iteration": iteration, **training.determining()},
        inputs=list(dict.fromkeys([pairs, *before, *(base.inputs if from_base else ())])),
        files=base.files if from_base else {},
    )
    if made:  # published: its checkpoints are gone, and so goes what a resume would have read beside them
        partial_of(metrics).unlink()
    return made


def _health(workspace: Workspace, run: str, iteration: int, base: Base, options: HealthOptions) -> bool:
    """Measure a trained iteration. A stage of its own: the model is kept, and the run goes on without the figures where
    memory does not suffice.
    """
    policy, trained = _name(run, iteration - 1, "model"), _name(run, iteration, "model")
    name, rollouts = _name(run, iteration, "health"), _name(run, iteration, "rollouts")

    def build(stage: Mapping[str, Output]) -> None:
        from drift_train.analysis.health import write_health

        write_health(
            stage[name],
            workspace,
            rollouts,
            (workspace.path(policy), base.path, workspace.path(trained)),
            options,
            f"{run} iter{iteration} health",
        )
        stage[name].made_by = {"policy": policy, "trained": trained, "base": base.name}

    try:
        return workspace.run(
            "iter",
            [name],
            build,
            options={"iteration": iteration, **options.model_dump()},
            inputs=list(dict.fromkeys([rollouts, policy, trained, *base.inputs])),
            files=base.files,
        )
    except MemoryError as error:
        print(f"{name} is not measured: {error} loop.health=null leaves it out.", file=sys.stderr)
    from drift_train.models.load import free_memory

    free_memory()  # only here does nobody hold the model any more
    return False
