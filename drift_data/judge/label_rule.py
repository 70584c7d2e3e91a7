"""From scores to a label: the one decision rule that all judges and sources share. Knows no judge."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pydantic import BaseModel, ConfigDict, Field

from drift_data.schema import DSAT, NEUTRAL, SAT

# Items of the default rubric that ask for another version of the same reply.
CHANGE_ITEMS = frozenset({"Revision", "Factual_Error", "Ignored", "Insufficient_Detail", "Style"})


class Thresholds(BaseModel):
    """How strong a side must be to count: a score at or above its threshold does.

    Scores are sums of item strengths from 1 (weak) to 10 (explicit), so the defaults ask for one clear sign.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sat: float = Field(5.0, gt=0)
    dsat: float = Field(5.0, gt=0)


def decide(
    sat_score: float,
    dsat_score: float,
    items: Iterable[str],
    thresholds: Thresholds,
    change_items: Collection[str] = CHANGE_ITEMS,
) -> str:
    """Return the label of a turn.

    The two scores are not subtracted: praise does not take back a complaint. Where both sides are strong, the
    turn is DSAT when one of the items asks for a change of the same reply, else NEUTRAL.

    Args:
        sat_score: summed strength of the satisfaction items.
        dsat_score: summed strength of the dissatisfaction items.
        items: names of the items seen; read only when both sides are strong.
        thresholds: what counts as strong.
        change_items: item names that ask for a change.
    """
    satisfied, dissatisfied = sat_score >= thresholds.sat, dsat_score >= thresholds.dsat
    if satisfied and dissatisfied:
        return DSAT if any(item in change_items for item in items) else NEUTRAL
    if dissatisfied:
        return DSAT
    return SAT if satisfied else NEUTRAL
