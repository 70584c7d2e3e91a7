"""Trains the classifier, and predicts every turn of the teacher with a model that has not seen the conversation."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import polars as pl
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from drift_data.chats.order import LEARNING_CURVE, rank
from drift_data.distill.examples import TaughtTurns, name_items
from drift_data.distill.options import DistillOptions
from drift_data.judge.local.model import Classifier
from drift_data.judge.local.train import LabelledTurns, TrainedClassifier, count_steps, train_classifier
from drift_data.schema import DSAT
from drift_data.workspace import UserError

# Least numbers of turns to learn from, and of conversations that these turns come from. Both must be reached by the
# DSAT turns, and again by the turns that are not DSAT.
MIN_TURNS: Final = 20
MIN_CONVERSATIONS: Final = 10
LEARNING_CURVE_SHARES: Final = (0.25, 0.5)  # shares of the conversations that the learning curve trains on


@dataclass(frozen=True)
class Student:
    """A trained classifier, and its answers to the teacher's turns.

    Attributes:
        model: the classifier, trained on every turn that is not held out.
        rows: rows of `TaughtTurns` with `probability` (of DSAT) and `guessed` (the item that the model names). The
            model itself answers the held-out turns. Turns that it learned from are answered by a model of the
            cross-validation that has not seen their conversation.
        parts: the learning curve: share of the conversations → the same table from a model trained on that share only;
            None if the share has too few turns.
    """

    model: Classifier
    rows: pl.DataFrame
    parts: Mapping[float, pl.DataFrame | None]


def train_student(
    name: str,
    taught: TaughtTurns,
    written: LabelledTurns | None,
    options: DistillOptions,
    data: Mapping[str, Any],
) -> Student:
    """Train a classifier on the turns that are not held out, and predict all of them.

    Args:
        name: name of the classifier.
        taught: the teacher's turns.
        written: our own turns to learn from beside the teacher's.
        options: what to train, and how.
        data: where the turns come from, for the model's card.

    Raises:
        UserError: there are too few turns to learn from.
    """
    learned = ~taught.rows["held_out"]
    check_enough(taught.rows.filter(learned))
    shares = LEARNING_CURVE_SHARES if options.learning_curve else ()
    held_out = taught.select_examples(~learned)

    def predict(fitted: TrainedClassifier, chosen: pl.Series) -> pl.DataFrame:
        """Return the turns that a model was trained on, predicted out of fold, followed by all held-out turns."""
        predicted = fitted.model.predict(held_out.turns)
        unseen = taught.rows.filter(~learned).with_columns(
            probability=pl.Series(predicted.dsat, dtype=pl.Float64),
            guessed=name_items(list(fitted.model.card.items), fitted.model.choose_items(held_out.turns)),
        )
        return pl.concat([_add_out_of_fold(taught.rows.filter(chosen), fitted), unseen])

    with tqdm(
        total=count_steps() * (1 + len(shares)), desc=f"distill {name}", unit=" fit", file=sys.stderr
    ) as bar:

        def step() -> None:
            bar.update()

        def fit(chosen: pl.Series) -> TrainedClassifier:
            # With two threads, sums are taken in another order and other trees grow: 1 % of the labels changed.
            with threadpool_limits(1):
                return train_classifier(
                    f"local:{name}", taught.select_examples(chosen), written, options.train, data, step
                )

        try:
            whole = fit(learned)
        except ValueError as error:
            raise UserError(f"There are too few turns to learn from: {error}") from error
        parts: dict[float, pl.DataFrame | None] = {}
        for share in shares:
            chosen = learned & is_in_first_part(taught.rows["conversation_id"], share)
            try:
                check_enough(taught.rows.filter(chosen))
                parts[share] = predict(fit(chosen), chosen)
            except (UserError, ValueError):
                parts[share] = None
                bar.update(count_steps())
    return Student(whole.model, predict(whole, learned), parts)


def check_enough(rows: pl.DataFrame) -> None:
    """Check that there are enough DSAT turns and enough other turns to learn from.

    Raises:
        UserError: there are too few; the message says how many there are, and how many it takes.
    """
    sides = [rows.filter((pl.col("gold_label") == DSAT) == kind) for kind in (True, False)]
    counts = [(side.height, side["conversation_id"].n_unique()) for side in sides]
    if any(turns < MIN_TURNS or conversations < MIN_CONVERSATIONS for turns, conversations in counts):
        (dsat, in_dsat), (rest, in_rest) = counts
        raise UserError(
            f"Too few labels to learn from: {dsat:,} DSAT turns in {in_dsat:,} conversations and {rest:,} "
            f"other turns in {in_rest:,}. It takes {MIN_TURNS} turns of each kind, in {MIN_CONVERSATIONS} conversations; a "
            "useful classifier takes hundreds. "
            "Label more (SAMPLE=), or take the shipped classifier as it is."
        )


def add_quality(model: Classifier, quality: Mapping[str, Any]) -> Classifier:
    """Return the model with the metrics of its measurement on its card."""
    return replace(model, card=model.card.model_copy(update={"quality": dict(quality)}))


def _add_out_of_fold(rows: pl.DataFrame, fitted: TrainedClassifier) -> pl.DataFrame:
    """Return the rows that a model was trained on, with the answers of the models of its cross-validation."""
    return rows.with_columns(
        probability=pl.Series(fitted.out_of_fold, dtype=pl.Float64),
        guessed=pl.Series(fitted.guessed, dtype=pl.String),
    )


def is_in_first_part(conversations: pl.Series, share: float) -> pl.Series:
    """Say of each turn whether its conversation is among the first in the order of LEARNING_CURVE.

    Args:
        conversations: (turns,) ids.
        share: share of the distinct conversations that counts as the first part.
    """
    names = sorted(conversations.unique(), key=lambda name: rank(name, LEARNING_CURVE))
    return conversations.is_in(names[: round(share * len(names))])
