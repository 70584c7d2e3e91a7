"""The stage that learns a rubric from conversations with thumbs."""

from collections.abc import Sequence

from drift_data.judge.learn.options import LearnOptions
from drift_data.judge.learn.stage import FILE, LEARNED, REASONS, learn_rubric
from drift_data.judge.llm.base import Backend
from drift_data.judge.llm.request import Sampling
from drift_data.judge.rubric import load_rubric
from drift_data.workspace import Workspace


def rubric(
    workspace: Workspace,
    backend: Backend,
    sampling: Sampling,
    options: LearnOptions,
    inputs: Sequence[str],
    labels: str | None,
) -> None:
    """Learn a rubric from INPUT, or from LABELS such as "simulated" or "labels/simulated", and say where it is."""
    if labels and "/" not in labels:
        labels = f"labels/{labels}"
    learn_rubric(workspace, backend, sampling, options, inputs=inputs, labels=labels or None)
    path = workspace.path(LEARNED) / FILE
    learned = load_rubric(path)
    polarities = list(learned.polarities.values())
    print(f"{path}: {polarities.count('SAT')} + {polarities.count('DSAT')} items, {learned.hash}")
    print(f"{workspace.path(REASONS)}: {workspace.require(REASONS).rows_out:,} conversations")
