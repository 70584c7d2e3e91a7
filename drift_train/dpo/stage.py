"""Makes the model of an iteration: DPO on its pairs, or the base model itself. Imports torch only to train."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from drift_data.workspace import Output, UserError, Workspace, locate_output
from drift_train.dpo.checkpoints import partial_metrics_path
from drift_train.methods.examples import Example, read_training_examples
from drift_train.methods.options import LoopOptions
from drift_train.methods.selection import choose_slice, find_usable_examples
from drift_train.models.find import FoundModel, link_model
from drift_train.options import TrainOptions
from drift_train.pairs.filters import LENGTH_STOP

_SCRATCH = ".tmp"  # folder of the workspace that every stage empties before it begins


def train_policy(
    workspace: Workspace, run: str, iteration: int, base: FoundModel, training: TrainOptions, method: str
) -> bool:
    """Make `runs/<run>/iter<k>/model`, and `metrics.jsonl` beside it: DPO on the pairs of iteration k.

    Args:
        workspace: holds the pairs, and M_(k-1) for an iteration.
        run: name of the run.
        iteration: k; 0 is the warm start, which trains the base model.
        base: the base model.
        training: options of the training.
        method: what made the pairs, for the metrics: a method's name, or "seed".

    Returns:
        True when a model was trained, False when it was there already.

    Raises:
        UserError: there is no pair.
    """
    name, pairs = locate_output(run, iteration, "model"), locate_output(run, iteration, "pairs")
    before = [locate_output(run, iteration - 1, "model")] if iteration else list(base.inputs)
    policy = workspace.path(before[0]) if iteration else base.path
    is_base_reference = training.reference == "base" or not iteration
    reference = base.path if is_base_reference else policy
    metrics = workspace.path(locate_output(run, iteration, "metrics.jsonl"))

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.dpo.train import train

        rows = workspace.read(pairs).to_pylist()
        if not rows:
            dropped = workspace.require(pairs).dropped
            raise UserError(
                f"No pair is left for {run} iter{iteration}; dropped: {dropped}. "
                + ("Raise rollout.max_new_tokens." if LENGTH_STOP in dropped else "Look at the dropped rows.")
            )
        output = outputs[name]
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
            "reference": base.name if is_base_reference else before[0],
            "precision": output.results.pop("precision"),
            "precision_saved": output.results.pop("precision_saved"),
        }

    made = workspace.run(
        "iter" if iteration else "warm",
        [name],
        build,
        options={"method": method, "iteration": iteration, **training.identity()},
        inputs=list(dict.fromkeys([pairs, *before, *(base.inputs if is_base_reference else ())])),
        files=base.files if is_base_reference else {},
    )
    if made:  # The model is in place and its checkpoints are gone, so nothing can resume from these metrics.
        partial_metrics_path(metrics).unlink()
    return made


def take_base_model(workspace: Workspace, run: str, base: FoundModel, reason: str) -> bool:
    """Make `runs/<run>/iter0/model` the base model itself, and say why on stderr.

    Returns:
        True when the model was taken, False when it was there already.
    """
    name = locate_output(run, 0, "model")
    print(f"{run}: no warm start: {reason}. M0 is the base model {base.name}.", file=sys.stderr)

    def build(outputs: Mapping[str, Output]) -> None:
        # An earlier warm start may have left metrics.
        workspace.path(locate_output(run, 0, "metrics.jsonl")).unlink(missing_ok=True)
        link_model(base.path, outputs[name].folder)
        outputs[name].made_by = {"model": base.name, "warm_start": False, "reason": reason}

    return workspace.run(
        "warm",
        [name],
        build,
        options={"warm_start": False, "reason": reason},
        inputs=base.inputs,
        files=base.files,
    )


def rehearse_warm_start(workspace: Workspace, run: str, base: FoundModel, training: TrainOptions) -> None:
    """Make two updates of the base model and forget them: what would stop the warm start shows at once.

    Raises:
        UserError: as `rehearse`.
        CheckError: as `rehearse`.
    """
    examples = read_training_examples(workspace, "seed")
    _rehearse(workspace, base.path, base.path, examples, training, f"{run} rehearsal of the warm start")


def rehearse_iterations(workspace: Workspace, run: str, base: FoundModel, options: LoopOptions) -> None:
    """Make two updates of M0 and forget them: what would stop a training shows before hours are spent on sampling.

    Raises:
        UserError: as `rehearse`, or there is no example to learn from.
        CheckError: as `rehearse`.
    """
    policy = workspace.path(locate_output(run, 0, "model"))
    reference = base.path if options.train.reference == "base" else policy
    usable, _ = find_usable_examples(workspace, options)
    examples = choose_slice(usable, 1, options.rollout_options())
    _rehearse(workspace, policy, reference, examples, options.train, f"{run} rehearsal of DPO")


def _rehearse(
    workspace: Workspace,
    policy: Path,
    reference: Path,
    examples: Iterable[Example],
    training: TrainOptions,
    title: str,
) -> None:
    from drift_train.dpo.rehearsal import rehearse

    folder = workspace.path(_SCRATCH)
    with workspace.lock():
        folder.mkdir(exist_ok=True)
        rehearse(policy, reference, examples, training, folder, title)
