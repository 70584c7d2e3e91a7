"""Measures how well one label table agrees with another, turn by turn, and gives the counts behind every figure.

Turns that only one table has are counted, but not compared. The quality report (`stage.py`) has intervals, thresholds
and the texts of turns besides.
"""

from __future__ import annotations

from pydantic import BaseModel

from drift_data.calibrate.metrics import compute_metrics, count_confusion, nan_to_none
from drift_data.labels.tables import KEY_COLUMNS, read_labels
from drift_data.schema import LABELS
from drift_data.workspace import Workspace


class LabelScore(BaseModel):
    """Precision, recall and F1 of one label; None where there is nothing to divide by."""

    precision: float | None
    recall: float | None
    f1: float | None
    labelled: int  # turns that the judge gave this label
    true: int  # turns that have this label in truth
    right: int  # turns that were given this label and have it in truth


class Agreement(BaseModel):
    """How well a label table agrees with another one, which is taken for the truth."""

    labels: str  # folder of the measured table
    truth: str  # folder of the table taken for the truth
    turns: int  # turns that both tables have
    only_labels: int  # turns that only the measured table has
    only_truth: int  # turns that only the other table has
    accuracy: float | None
    kappa: float | None  # Cohen's κ over the three labels
    kappa_dsat: float | None  # Cohen's κ of DSAT against the other two labels
    confusion: dict[str, dict[str, int]]  # true label → given label → turns
    scores: dict[str, LabelScore]  # by label


def measure_agreement(workspace: Workspace, labels: str, truth: str) -> Agreement:
    """Compare two label tables of a workspace.

    Args:
        workspace: holds both tables.
        labels: folder of the labels to measure, such as "labels/local".
        truth: folder of the labels to measure them against, such as "simulated/truth".

    Raises:
        UserError: one of them has two labels for one turn.
    """
    given, true = (read_labels(workspace, name) for name in (labels, truth))
    joined = given.join(true, on=KEY_COLUMNS, how="inner", suffix="_true")
    table = count_confusion(joined["label_true"], joined["label"])
    found = {name: nan_to_none(value) for name, value in compute_metrics(table).items()}
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
