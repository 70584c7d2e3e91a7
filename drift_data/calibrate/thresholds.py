"""Chooses the thresholds that turn scores into labels, on labelled turns. Knows no judge and no report.

Every pair of thresholds that the scores can tell apart is counted at once: the label rule of
`drift_data.judge.label_rule`, over a histogram of the two scores.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml
from pydantic import BaseModel, ValidationError

from drift_data.calibrate.metrics import Counts, Floats, f_score, figures, number
from drift_data.calibrate.options import ThresholdOptions
from drift_data.chats.order import GOLD_PART, is_one_in
from drift_data.chats.safe_text import visible
from drift_data.judge.label_rule import Thresholds
from drift_data.schema import DSAT, LABELS, NEUTRAL, SAT
from drift_data.workspace import UserError

CHOOSING, REPORTING = "choosing", "reporting"
_VALUES = 200  # thresholds tried for each score; of more distinct scores, as many quantiles


class Point(BaseModel):
    """One threshold of a label, the other label's threshold being the chosen one."""

    threshold: float
    given: int
    right: int
    precision: float | None
    recall: float | None
    f1: float | None


class Choice(BaseModel):
    """The thresholds, and what they were chosen from."""

    present: Thresholds
    chosen: Thresholds
    notes: list[str]  # why a threshold keeps its value
    curves: dict[str, list[Point]]  # SAT, DSAT → points by rising threshold, on the choosing part


def part_of(conversations: pl.Series) -> pl.Series:
    """Return for each conversation id the half of the gold it belongs to; it depends on the id alone."""
    names = conversations.unique()
    choosing = [is_one_in(name, GOLD_PART, 2) for name in names]
    parts = pl.Series([CHOOSING if value else REPORTING for value in choosing], dtype=pl.String)
    return conversations.replace_strict(names, parts, return_dtype=pl.String)


def asks_for_change(change_items: Collection[str]) -> pl.Expr:
    """Return whether a row's `items` hold one of these names."""
    seen = pl.element().struct.field("name").is_in(list(change_items))
    return pl.col("items").list.eval(seen).list.any().fill_null(False)


def decided(thresholds: Thresholds) -> pl.Expr:
    """Return the label of rows with `sat_score`, `dsat_score` and `change`: `judge.decide.decide` as a column."""
    satisfied, dissatisfied = pl.col("sat_score") >= thresholds.sat, pl.col("dsat_score") >= thresholds.dsat
    return (
        pl.when(dissatisfied & (~satisfied | pl.col("change")))
        .then(pl.lit(DSAT))
        .when(satisfied & ~dissatisfied)
        .then(pl.lit(SAT))
        .otherwise(pl.lit(NEUTRAL))
    )


def choose(rows: pl.DataFrame, present: Thresholds, options: ThresholdOptions) -> Choice:
    """Return the thresholds with the highest F-score of DSAT, then of SAT, on these rows.

    First `dsat`, with `sat` as it is; then `sat`. Of equals the one with the higher precision counts, then the
    present one, then the higher. A threshold is not touched when fewer than `min_label` rows have its label.

    Args:
        rows: the choosing part, with `sat_score`, `dsat_score`, `change`, `gold_label`.
        present: the thresholds in use.
        options: what counts as better.
    """
    grid = _grid(rows, present)
    found = figures(grid.confusion)
    i, j = grid.at(present)
    notes = []
    allowed = np.ones(grid.confusion.shape[:2], np.bool_)
    if options.min_precision is not None:
        allowed = np.nan_to_num(found["precision_DSAT"]) >= options.min_precision
    for label in (DSAT, SAT):
        true = int((rows["gold_label"] == label).sum())
        score, precision = _f_score(grid.confusion, label, options.beta), found[f"precision_{label}"]
        line, values = ((i, slice(None)), grid.dsat) if label == DSAT else ((slice(None), j), grid.sat)
        now = getattr(present, label.lower())
        if true < options.min_label:
            notes.append(
                f"{label}: {true} turns of the choosing part have it, fewer than {options.min_label}; its "
                f"threshold stays {now:g}."
            )
            continue
        # Once no threshold of DSAT reaches the floor, it is no reason to leave the one of SAT alone.
        open_to = allowed[line] if allowed[i].any() else np.ones(len(values), np.bool_)
        if label == DSAT and not allowed[i].any():
            best = np.nanmax(precision[line], initial=0)
            notes.append(
                f"DSAT: no threshold reaches a precision of {options.min_precision:g} on the choosing part "
                f"(the best has {best:.3f}); it stays {now:g}."
            )
            continue
        at = _best(score[line], precision[line], values, now, open_to)
        i, j = (i, at) if label == DSAT else (at, j)
    chosen = Thresholds(sat=float(grid.sat[i]), dsat=float(grid.dsat[j]))
    curves = {
        DSAT: _curve(grid.dsat, grid.confusion[i], DSAT),
        SAT: _curve(grid.sat, grid.confusion[:, j], SAT),
    }
    return Choice(present=present, chosen=chosen, notes=notes, curves=curves)


def fragment(choice: Choice, why: str) -> str:
    """Return the chosen thresholds as a piece of a recipe, in YAML with a comment."""
    lines = [f"# {visible(line, 300)}" for line in (why, *choice.notes)]
    return "\n".join(lines) + "\n" + yaml.safe_dump({"label": {"thresholds": choice.chosen.model_dump()}})


def read_thresholds(path: Path) -> Thresholds:
    """Return the thresholds of a file that `fragment` wrote.

    Raises:
        UserError: there is no such file, or it holds no thresholds.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Thresholds.model_validate(values["label"]["thresholds"])
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. `make calibrate` writes one.") from error
    except (yaml.YAMLError, ValidationError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no thresholds: it needs `label: {{thresholds: {{sat: …, dsat: …}}}}` ({error!s:.200})."
        ) from error


@dataclass(frozen=True)
class _Grid:
    """The confusion table at every pair of thresholds."""

    sat: Floats  # (i,) rising
    dsat: Floats  # (j,)
    confusion: Counts  # (i, j, 3, 3)

    def at(self, thresholds: Thresholds) -> tuple[int, int]:
        return (
            int(np.searchsorted(self.sat, thresholds.sat)),
            int(np.searchsorted(self.dsat, thresholds.dsat)),
        )


def _grid(rows: pl.DataFrame, present: Thresholds) -> _Grid:
    scores = {name: rows[name].to_numpy().astype(np.float64) for name in ("sat_score", "dsat_score")}
    sat, dsat = _values(scores["sat_score"], present.sat), _values(scores["dsat_score"], present.dsat)
    reached = [  # number of thresholds that each row reaches
        np.searchsorted(values, score, side="right")
        for values, score in zip((sat, dsat), scores.values(), strict=True)
    ]
    truth = rows["gold_label"].replace_strict(LABELS, range(len(LABELS)), return_dtype=pl.Int64).to_numpy()
    shape = (len(sat) + 1, len(dsat) + 1, 2, len(LABELS))
    codes = np.ravel_multi_index((*reached, rows["change"].to_numpy().astype(np.int64), truth), shape)
    histogram = np.bincount(codes, minlength=int(np.prod(shape))).reshape(shape)
    by_dsat = _at_least(histogram.sum((0, 2)), 0)  # (j, 3)
    by_sat = _at_least(histogram.sum((1, 2)), 0)  # (i, 3)
    both = _at_least(_at_least(histogram, 0), 1)  # (i, j, change, 3)
    given = {DSAT: by_dsat[None] - both[:, :, 0], SAT: by_sat[:, None] - both.sum(2)}
    given[NEUTRAL] = histogram.sum((0, 1, 2)) - given[DSAT] - given[SAT]
    return _Grid(sat, dsat, np.stack([given[label] for label in LABELS], -1))


def _values(scores: Floats, present: float) -> Floats:
    """Return the thresholds to try: the distinct positive scores, and the present threshold."""
    distinct = np.unique(scores[scores > 0])
    if len(distinct) > _VALUES:
        distinct = np.unique(np.quantile(distinct, np.linspace(0, 1, _VALUES), method="nearest"))
    return np.union1d(distinct, [present])


def _at_least(histogram: Counts, axis: int) -> Counts:
    """Return, for each threshold of an axis, the count of what reaches it."""
    sums = np.flip(np.cumsum(np.flip(histogram, axis), axis), axis)
    return np.delete(sums, 0, axis)


def _f_score(confusion: Counts, label: str, beta: float) -> Floats:
    at = LABELS.index(label)
    return f_score(confusion[..., at, at], confusion[..., at].sum(-1), confusion[..., at, :].sum(-1), beta)


def _best(score: Floats, precision: Floats, values: Floats, present: float, allowed: np.ndarray) -> int:
    ranked = np.lexsort((values, values == present, np.nan_to_num(precision), score, allowed))
    return int(ranked[-1])


def _curve(values: Floats, confusion: Counts, label: str) -> list[Point]:
    at, found = LABELS.index(label), figures(confusion)
    return [
        Point(
            threshold=float(value),
            given=int(confusion[row, :, at].sum()),
            right=int(confusion[row, at, at]),
            **{name: number(found[f"{name}_{label}"][row]) for name in ("precision", "recall", "f1")},
        )
        for row, value in enumerate(values)
    ]
