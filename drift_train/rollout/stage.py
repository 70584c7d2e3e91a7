"""Makes the rollouts of an iteration: the policy answers the examples' prompts once more. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

from drift_data.schema import DROPPED
from drift_data.workspace import Output, Workspace, locate_output
from drift_train.methods import METHODS
from drift_train.methods.options import LoopOptions
from drift_train.methods.selection import choose_slice, find_usable_examples
from drift_train.rollout.engine import ENGINE_LOGS

_NO_FEEDBACK = {
    "reason": "no_feedback",
    "detail": "nothing is said about the failing reply, so it cannot guide",
}


def sample_rollouts(workspace: Workspace, run: str, iteration: int, options: LoopOptions) -> bool:
    """Make `runs/<run>/iter<k>/rollouts`: replies of M_(k-1) to the examples of iteration k.

    Args:
        workspace: holds the method's table of examples, and M_(k-1).
        run: name of the run.
        iteration: k, from 1.
        options: the options of the whole run.

    Returns:
        True when the rollouts were made, False when they were there already.
    """
    name, policy = locate_output(run, iteration, "rollouts"), locate_output(run, iteration - 1, "model")
    rollout = options.rollout_options()

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.rollout.write import write_rollouts

        usable, without_feedback = find_usable_examples(workspace, options)
        output = outputs[name]
        write_rollouts(
            output,
            workspace.path(policy),
            choose_slice(usable, iteration, rollout),
            METHODS[options.method],
            rollout,
            max_length=options.train.max_length,
            iteration=iteration,
            log_folder=workspace.path(ENGINE_LOGS),
            title=f"{run} iter{iteration} rollouts",
        )
        output.drop(
            [
                {"conversation_id": e.conversation_id, "turn": e.turn, **_NO_FEEDBACK}
                for e in without_feedback
            ],
            DROPPED,
        )
        output.rows_in = (output.rows_in or 0) + len(without_feedback)

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
        inputs=[options.examples_table, policy],
    )
