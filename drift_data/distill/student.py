"""Trains the classifier, and says what models that have not seen a turn's conversation make of it. Writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import polars as pl
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from drift_data.chats.order import LEARNING_CURVE, rank
from drift_data.distill.examples import Taught, named
from drift_data.distill.options import DistillOptions
from drift_data.judge.local.model import Model
from drift_data.judge.local.train import Examples, Fitted, steps, train
from drift_data.schema import DSAT
from drift_data.workspace import UserError

LEAST: Final = 20  # turns that are DSAT, and turns that are not
APART: Final = 10  # conversations that each of the two must come from
PARTS: Final = (0.25, 0.5)  # of the conversations, for the learning curve


@dataclass(frozen=True)
class Student:
    """A trained classifier and its answers to the teacher's turns."""

    model: Model
    rows: pl.DataFrame  # of `Taught`, in order, with `probability` and `guessed` (an item)
    parts: Mapping[
        float, pl.DataFrame | None
    ]  # share of the conversations → the same of a model of these alone


def fit(
    name: str, found: Taught, written: Examples | None, options: DistillOptions, data: Mapping[str, Any]
) -> Student:
    """Train on the turns that are not held out.

    Args:
        name: of the classifier.
        found: the teacher's turns.
        written: our own turns beside them.
        options: how.
        data: where the turns are from, for the model's card.

    Raises:
        UserError: there are too few turns to learn from.
    """
    learned = ~found.rows["held_out"]
    check_enough(found.rows.filter(learned))
    shares = PARTS if options.learning_curve else ()
    apart = found.examples(~learned)

    def answers(fitted: Fitted, chosen: pl.Series) -> pl.DataFrame:
        predicted = fitted.model.predict(apart.turns)
        unseen = found.rows.filter(~learned).with_columns(
            probability=pl.Series(predicted.dsat, dtype=pl.Float64),
            guessed=named(list(fitted.model.card.items), fitted.model.named(apart.turns)),
        )
        return pl.concat([_answered(found.rows.filter(chosen), fitted), unseen])

    with tqdm(total=steps() * (1 + len(shares)), desc=f"distill {name}", unit=" fit", file=sys.stderr) as bar:

        def step() -> None:
            bar.update()

        def part(chosen: pl.Series) -> Fitted:
            with threadpool_limits(
                1
            ):  # sums in another order grow other trees: 1 % of the labels moved with two
                return train(f"local:{name}", found.examples(chosen), written, options.train, data, step)

        try:
            whole = part(learned)
        except ValueError as error:
            raise UserError(f"There are too few turns to learn from: {error}") from error
        parts: dict[float, pl.DataFrame | None] = {}
        for share in shares:
            chosen = learned & first_part(found.rows["conversation_id"], share)
            try:
                check_enough(found.rows.filter(chosen))
                parts[share] = answers(part(chosen), chosen)
            except (UserError, ValueError):
                parts[share] = None
                bar.update(steps())
    return Student(whole.model, answers(whole, learned), parts)


def check_enough(rows: pl.DataFrame) -> None:
    """Raise unless there are enough turns of both kinds.

    Raises:
        UserError: says what is there and what is needed.
    """
    sides = [rows.filter((pl.col("gold_label") == DSAT) == kind) for kind in (True, False)]
    counts = [(side.height, side["conversation_id"].n_unique()) for side in sides]
    if any(turns < LEAST or conversations < APART for turns, conversations in counts):
        (dsat, in_dsat), (rest, in_rest) = counts
        raise UserError(
            f"Too few labels to learn from: {dsat:,} DSAT turns in {in_dsat:,} conversations and {rest:,} others in "
            f"{in_rest:,}. It takes {LEAST} of each, in {APART} conversations; a useful classifier takes hundreds. "
            "Label more (SAMPLE=), or take the shipped classifier as it is."
        )


def with_quality(model: Model, quality: Mapping[str, Any]) -> Model:
    """Return the model with figures on its card."""
    return replace(model, card=model.card.model_copy(update={"quality": dict(quality)}))


def _answered(rows: pl.DataFrame, fitted: Fitted) -> pl.DataFrame:
    return rows.with_columns(
        probability=pl.Series(fitted.out_of_fold, dtype=pl.Float64),
        guessed=pl.Series(fitted.guessed, dtype=pl.String),
    )


def first_part(conversations: pl.Series, share: float) -> pl.Series:
    """Say of each turn whether its conversation is in the first part of them, in the order of LEARNING_CURVE."""
    names = sorted(conversations.unique(), key=lambda name: rank(name, LEARNING_CURVE))
    return conversations.is_in(names[: round(share * len(names))])
