"""How well one label table agrees with another, joined by key. It does not know which of them is right.

Turns that only one side has are counted, not judged. Counts stay beside every figure. Intervals, thresholds
and the turns themselves are the quality report's business (`drift_data.calibrate`).
"""

from __future__ import annotations

from pydantic import BaseModel

from drift_data.calibrate.metrics import confusion, figures, number
from drift_data.labels.tables import KEYS, read_labels
from drift_data.schema import LABELS
from drift_data.workspace import Workspace


class LabelScore(BaseModel):
    """Precision, recall and F1 of one label; None where there is nothing to divide by."""

    precision: float | None
    recall: float | None
    f1: float | None
    labelled: int  # turns that the judge gave this label
    true: int  # turns that have it
    right: int


class Agreement(BaseModel):
    """What `agreement` found."""

    labels: str
    truth: str
    turns: int  # that both sides have
    only_labels: int
    only_truth: int
    accuracy: float | None
    kappa: float | None  # Cohen's, over the three labels
    kappa_dsat: float | None  # Cohen's, DSAT against the rest
    confusion: dict[str, dict[str, int]]  # true label → given label → turns
    scores: dict[str, LabelScore]


def agreement(workspace: Workspace, labels: str, truth: str) -> Agreement:
    """Compare two label tables of a workspace.

    Args:
        workspace: holds both.
        labels: folder of the labels to look at, such as "labels/local".
        truth: folder of the labels to hold them against, such as "simulated/truth".

    Raises:
        UserError: one of them has two labels for one turn.
    """
    given, true = (read_labels(workspace, name) for name in (labels, truth))
    joined = given.join(true, on=KEYS, how="inner", suffix="_true")
    table = confusion(joined["label_true"], joined["label"])
    found = {name: number(value) for name, value in figures(table).items()}
    return Agreement(
        labels=labels,
        truth=truth,
        turns=joined.height,
        only_labels=given.height - joined.height,
        only_truth=true.height - joined.height,
        accuracy=found["accuracy"],
        kappa=found["kappa"],
        kappa_dsat=found["kappa_dsat"],
        confusion={
            label: dict(zip(LABELS, row, strict=True))
            for label, row in zip(LABELS, table.tolist(), strict=True)
        },
        scores={
            label: LabelScore(
                precision=found[f"precision_{label}"],
                recall=found[f"recall_{label}"],
                f1=found[f"f1_{label}"],
                labelled=int(table[:, at].sum()),
                true=int(table[at].sum()),
                right=int(table[at, at]),
            )
            for at, label in enumerate(LABELS)
        },
    )
