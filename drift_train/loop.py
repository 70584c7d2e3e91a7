"""The DRIFT loop over a workspace: warm start on seed pairs, then rollouts, pairs and DPO for each iteration.

Every step is one stage of `Workspace.run`, so a killed run goes on at the stage that was cut, and a second
call makes nothing again. Knows folders and the order of the steps; what a step computes is elsewhere.
"""

from __future__ import annotations

from drift_data.workspace import Workspace
from drift_train.options import LoopOptions


def warm(workspace: Workspace, run: str, base: str, options: LoopOptions) -> bool:
    """Make `runs/<run>/iter0/{pairs,model}`: DPO from `base` on the `seed` table.

    Args:
        workspace: needs `seed`.
        run: name of the run.
        base: a folder of the workspace ("base"), any other local folder, or a Hub id.
        options: of the whole run.

    Returns:
        True when something was made, False when all was there already.
    """
    raise NotImplementedError


def iterate(workspace: Workspace, run: str, n: int, base: str, options: LoopOptions) -> bool:
    """Make `runs/<run>/iter<n>/{rollouts,pairs,model}`, and all iterations before it that are missing."""
    raise NotImplementedError
