"""Turns the two scores of a feedback turn into its label, by the one rule that all judges and sources share."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from drift_data.judge.options import Thresholds
from drift_data.schema import DSAT, NEUTRAL, SAT

# Items of the default rubric with which the user asks for another version of the same reply.
CHANGE_ITEMS = frozenset({"Revision", "Factual_Error", "Ignored", "Insufficient_Detail", "Style"})


def decide_label(
    sat_score: float,
    dsat_score: float,
    items: Iterable[str],
    thresholds: Thresholds,
    change_items: Collection[str] = CHANGE_ITEMS,
) -> str:
    """Return the label of a turn.

    The scores are not subtracted from each other: praise does not take back a complaint. If both reach their
    threshold, the turn is DSAT when one of the items asks for a change of the same reply, else NEUTRAL.

    Args:
        sat_score: summed strength of the satisfaction items.
        dsat_score: summed strength of the dissatisfaction items.
        items: names of the items seen; read only if both scores reach their threshold.
        thresholds: the scores from which on a side counts.
        change_items: names of the items that ask for a change.
    """
    satisfied, dissatisfied = sat_score >= thresholds.sat, dsat_score >= thresholds.dsat
    if satisfied and dissatisfied:
        return DSAT if any(item in change_items for item in items) else NEUTRAL
    if dissatisfied:
        return DSAT
    return SAT if satisfied else NEUTRAL
