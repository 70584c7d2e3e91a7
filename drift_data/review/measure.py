"""How well a reviewer and a judge agree so far, on a random sample and on everything reviewed.

κ over turns that were picked for being doubtful is no κ of the judge: only the random sample is. It is the
beginning of the hash order up to the furthest turn that was decided in it; turns of that beginning count however
they came up, and those passed over are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from drift_data.calibrate.summary import Comparison, compare_labels
from drift_data.review.journal import Reviewed
from drift_data.review.queue import OPEN, Codes, Queue
from drift_data.schema import LABELS

ENOUGH: Final = 20  # conversations for an interval to be shown
_SEED: Final = 0


@dataclass(frozen=True)
class Measured:
    """Agreement on two sets of turns; None where nothing is reviewed. Rows of the confusion are the person's."""

    random: Comparison | None
    passed_over: int  # turns of the random sample that were seen, or jumped, and not decided
    every: Comparison | None
    blind: int  # of all reviewed turns
    other: Comparison | None  # the person and the second judge, on the random sample
    other_every: Comparison | None


def measure(queue: Queue, reviewed: Mapping[int, Reviewed]) -> Measured:
    """Return the agreement of a reviewer with the judge.

    Args:
        queue: the judge's turns.
        reviewed: number of a turn → what the person said; blind labels count as they were given.
    """
    numbers = np.array(sorted(reviewed), np.int64)
    given = [reviewed[int(number)].unbiased for number in numbers]
    drawn = [number for number, turn in reviewed.items() if turn.random]
    furthest = max((queue.hashes[number] for number in drawn), default=None)
    sampled = np.zeros(len(numbers), np.bool_) if furthest is None else queue.hashes[numbers] <= furthest
    whole = 0 if furthest is None else int((queue.hashes <= furthest).sum())
    few, labels = numbers[sampled], [label for label, inside in zip(given, sampled, strict=True) if inside]
    return Measured(
        random=_view("random", queue, few, labels, queue.labels),
        passed_over=whole - len(few),
        every=_view("all reviewed", queue, numbers, given, queue.labels),
        blind=sum(turn.blind for turn in reviewed.values()),
        other=_view("random", queue, few, labels, queue.others),
        other_every=_view("all reviewed", queue, numbers, given, queue.others),
    )


def _view(
    title: str, queue: Queue, numbers: np.ndarray, given: Sequence[str], judged: Codes | None
) -> Comparison | None:
    """Return the figures of the judge's labels held against the person's."""
    if judged is None:
        return None
    both = judged[numbers] != OPEN
    if not both.any():
        return None
    rows = (
        queue.rows[numbers[both]]
        .select("conversation_id")
        .with_columns(
            gold_label=pl.Series(
                [label for label, inside in zip(given, both, strict=True) if inside], dtype=pl.String
            )
        )
    )
    theirs = pl.Series([LABELS[code] for code in judged[numbers[both]]], dtype=pl.String)
    return compare_labels(title, rows, theirs, _SEED)
