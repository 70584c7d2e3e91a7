"""Measures how well a reviewer and a judge agree so far, on a random sample and on everything reviewed.

Only a random sample gives an unbiased κ. The sample is every turn up to the last one reviewed in random (hash) order. A
turn in that range counts even if it was reached through another filter; skipped turns are reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from drift_data.calibrate.summary import Comparison, compare_labels
from drift_data.review.journal import ReviewedTurn
from drift_data.review.queue import OPEN_CODE, Codes, ReviewQueue
from drift_data.schema import LABELS

MIN_CONVERSATIONS_FOR_INTERVAL: Final = 20  # with fewer conversations, the page shows no interval
_BOOTSTRAP_SEED: Final = 0


@dataclass(frozen=True)
class ReviewAgreement:
    """Agreement on the random sample and on all reviewed turns; None where there are no such turns.

    The reviewer takes the place of gold: rows of the confusion tables are the reviewer's labels.
    """

    random: Comparison | None  # the reviewer and the judge, on the random sample
    passed_over: int  # turns of the random sample that the reviewer has not decided
    every: Comparison | None  # the reviewer and the judge, on all reviewed turns
    blind: int  # reviewed turns that were decided blind
    other: Comparison | None  # the reviewer and the other judge, on the random sample
    other_every: Comparison | None  # the reviewer and the other judge, on all reviewed turns


def measure_review(queue: ReviewQueue, reviewed: Mapping[int, ReviewedTurn]) -> ReviewAgreement:
    """Return how well a reviewer agrees with the judge, and with the other judge.

    Args:
        queue: the judge's turns.
        reviewed: number of a turn → what the reviewer decided. If one of the decisions was blind, the last blind one
            counts.
    """
    numbers = np.array(sorted(reviewed), np.int64)
    given = [reviewed[int(number)].unbiased for number in numbers]
    drawn = [number for number, turn in reviewed.items() if turn.random]
    furthest = max((queue.hashes[number] for number in drawn), default=None)
    sampled = np.zeros(len(numbers), np.bool_) if furthest is None else queue.hashes[numbers] <= furthest
    whole = 0 if furthest is None else int((queue.hashes <= furthest).sum())
    sample, labels = numbers[sampled], [label for label, inside in zip(given, sampled, strict=True) if inside]
    return ReviewAgreement(
        random=_compare_with_judge("random", queue, sample, labels, queue.labels),
        passed_over=whole - len(sample),
        every=_compare_with_judge("all reviewed", queue, numbers, given, queue.labels),
        blind=sum(turn.blind for turn in reviewed.values()),
        other=_compare_with_judge("random", queue, sample, labels, queue.others),
        other_every=_compare_with_judge("all reviewed", queue, numbers, given, queue.others),
    )


def _compare_with_judge(
    title: str, queue: ReviewQueue, numbers: np.ndarray, given: Sequence[str], judged: Codes | None
) -> Comparison | None:
    """Compare a judge's labels with the reviewer's.

    Args:
        title: says which turns are compared.
        queue: the judge's turns.
        numbers: numbers of the turns.
        given: the reviewer's labels of the turns in `numbers`.
        judged: codes of the judge's labels of all turns of the queue; None: there is no such judge.

    Returns:
        None when the judge has no label for any of the turns.
    """
    if judged is None:
        return None
    both = judged[numbers] != OPEN_CODE
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
    return compare_labels(title, rows, theirs, _BOOTSTRAP_SEED)
