"""How well one label table agrees with another, joined by key. It does not know which of them is right.

Turns that only one side has are counted, not judged. Counts stay beside every figure.
"""

from __future__ import annotations

import polars as pl
from pydantic import BaseModel

from drift_data.schema import LABELS
from drift_data.workspace import UserError, Workspace


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
    keys = ["conversation_id", "turn"]
    given, true = (_slim(workspace, name) for name in (labels, truth))
    joined = given.join(true, on=keys, how="inner", suffix="_true")
    counts = {
        (row["label_true"], row["label"]): row["len"]
        for row in joined.group_by("label_true", "label").len().iter_rows(named=True)
    }
    confusion = {t: {g: counts.get((t, g), 0) for g in LABELS} for t in LABELS}
    dsat = {t: dict.fromkeys(("DSAT", "rest"), 0) for t in ("DSAT", "rest")}
    for (t, g), count in counts.items():
        dsat[t if t == "DSAT" else "rest"][g if g == "DSAT" else "rest"] += count
    return Agreement(
        labels=labels,
        truth=truth,
        turns=joined.height,
        only_labels=given.height - joined.height,
        only_truth=true.height - joined.height,
        accuracy=_ratio(sum(confusion[label][label] for label in LABELS), joined.height),
        kappa=cohens_kappa(confusion),
        kappa_dsat=cohens_kappa(dsat),
        confusion=confusion,
        scores={label: _score(confusion, label) for label in LABELS},
    )


def cohens_kappa(confusion: dict[str, dict[str, int]]) -> float | None:
    """Return Cohen's κ of a square table of counts; None when chance alone would agree always."""
    total = sum(sum(row.values()) for row in confusion.values())
    if not total:
        return None
    observed = sum(confusion[name][name] for name in confusion) / total
    chance = sum(
        sum(confusion[name].values()) * sum(row[name] for row in confusion.values()) for name in confusion
    ) / (total * total)
    return None if chance == 1 else (observed - chance) / (1 - chance)


def _slim(workspace: Workspace, name: str) -> pl.DataFrame:
    table = pl.DataFrame(workspace.read(name, ["conversation_id", "turn", "label"]))
    if table.select("conversation_id", "turn").is_duplicated().any():
        raise UserError(f"{workspace.path(name)} has two labels for one turn. Make it again.")
    strange = sorted(set(table["label"].unique()) - set(LABELS))
    if strange:
        raise UserError(
            f"{workspace.path(name)} has labels other than {', '.join(LABELS)}: {', '.join(strange)}."
        )
    return table


def _score(confusion: dict[str, dict[str, int]], label: str) -> LabelScore:
    right = confusion[label][label]
    labelled, true = sum(row[label] for row in confusion.values()), sum(confusion[label].values())
    return LabelScore(
        precision=_ratio(right, labelled),
        recall=_ratio(right, true),
        f1=_ratio(2 * right, labelled + true),
        labelled=labelled,
        true=true,
        right=right,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
