"""Measures the health of a trained iteration, as a stage of its own. Imports torch only when something is measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from drift_data.workspace import Output, Workspace, locate_output
from drift_train.models.find import FoundModel
from drift_train.options import HealthOptions


def measure_health(
    workspace: Workspace, run: str, iteration: int, base: FoundModel, options: HealthOptions
) -> bool:
    """Make `runs/<run>/iter<k>/health`: how M_(k-1) replied in the rollouts, and how far M_k has moved from it.

    Health is a stage of its own, so that the model is kept and the run goes on without these figures where memory does
    not suffice.

    Args:
        workspace: holds the rollouts, M_(k-1) and M_k.
        run: name of the run.
        iteration: k, from 1.
        base: the base model.
        options: how many replies are scored.

    Returns:
        True when the health was measured, False when it was there already or memory did not suffice.
    """
    policy, trained = locate_output(run, iteration - 1, "model"), locate_output(run, iteration, "model")
    name, rollouts = locate_output(run, iteration, "health"), locate_output(run, iteration, "rollouts")

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.analysis.health import write_health

        write_health(
            outputs[name],
            workspace,
            rollouts,
            (workspace.path(policy), base.path, workspace.path(trained)),
            options,
            f"{run} iter{iteration} health",
        )
        outputs[name].made_by = {"policy": policy, "trained": trained, "base": base.name}

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

    free_memory()  # only here: inside of the `except`, the error's traceback still holds the model
    return False
