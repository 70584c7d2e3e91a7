"""Chooses, on labelled turns, the thresholds that turn a judge's scores into labels.

The confusion tables of all candidate pairs of thresholds are counted at once: sums over a histogram of the two scores,
from the highest score down, give how often the rule in `drift_data.judge.label_rule` decides each label at each pair.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import yaml
from pydantic import BaseModel, ValidationError

from drift_data.calibrate.metrics import Counts, Floats, compute_f_score, compute_metrics, nan_to_none
from drift_data.calibrate.options import ThresholdOptions
from drift_data.chats.order import GOLD_PART, is_one_in
from drift_data.chats.safe_text import escape_invisible
from drift_data.judge.options import Thresholds
from drift_data.schema import DSAT, LABELS, NEUTRAL, SAT
from drift_data.workspace import UserError

THRESHOLDS_FILE = "thresholds.yaml"  # file with the chosen thresholds, in the folder of a report
CHOOSING_PART, REPORTING_PART = "choosing", "reporting"
# Most thresholds tried for each of the two scores. If more distinct scores occur, this many quantiles are tried.
_MAX_CANDIDATES = 200


class ThresholdPoint(BaseModel):
    """What one threshold of a label does, while the other label has its chosen threshold."""

    threshold: float
    given: int  # turns that get the label
    right: int  # turns that get the label and have it in the gold
    precision: float | None
    recall: float | None
    f1: float | None


class ThresholdChoice(BaseModel):
    """The chosen thresholds, and the candidates they were chosen from."""

    present: Thresholds  # the thresholds that decided the labels
    chosen: Thresholds
    notes: list[str]  # why a threshold keeps its value
    curves: dict[str, list[ThresholdPoint]]  # SAT, DSAT → candidates, rising, measured on the choosing part


def assign_gold_parts(conversations: pl.Series) -> pl.Series:
    """Return the half of the gold that each conversation belongs to; a conversation's half depends on its id alone.

    Args:
        conversations: (turns,) ids.

    Returns:
        (turns,) "choosing" or "reporting".
    """
    names = conversations.unique()
    choosing = [is_one_in(name, GOLD_PART, 2) for name in names]
    parts = pl.Series([CHOOSING_PART if value else REPORTING_PART for value in choosing], dtype=pl.String)
    return conversations.replace_strict(names, parts, return_dtype=pl.String)


def has_change_item(change_items: Collection[str]) -> pl.Expr:
    """Return an expression that is true for rows whose `items` hold one of these names."""
    asks_change = pl.element().struct.field("name").is_in(list(change_items))
    return pl.col("items").list.eval(asks_change).list.any().fill_null(False)


def decide_labels(thresholds: Thresholds) -> pl.Expr:
    """Return an expression for the label of rows with `sat_score`, `dsat_score` and `change`.

    The expression is `drift_data.judge.label_rule.decide_label` for whole columns.
    """
    satisfied, dissatisfied = pl.col("sat_score") >= thresholds.sat, pl.col("dsat_score") >= thresholds.dsat
    return (
        pl.when(dissatisfied & (~satisfied | pl.col("change")))
        .then(pl.lit(DSAT))
        .when(satisfied & ~dissatisfied)
        .then(pl.lit(SAT))
        .otherwise(pl.lit(NEUTRAL))
    )


def choose_thresholds(rows: pl.DataFrame, present: Thresholds, options: ThresholdOptions) -> ThresholdChoice:
    """Return the thresholds with the highest F-score of DSAT, then of SAT, on these rows.

    The DSAT threshold is chosen first, while the SAT threshold is the one in use; then the SAT threshold is chosen,
    with the chosen DSAT threshold. Among candidates with equal F-scores, the one with the highest precision wins, then
    the one in use, then the highest. A threshold stays if fewer than `min_label` rows have its label in the gold, and
    the DSAT threshold also if no candidate reaches `min_precision`.

    Args:
        rows: the choosing part, with `sat_score`, `dsat_score`, `change`, `gold_label`.
        present: the thresholds in use.
        options: what to maximise, and under which conditions.
    """
    grid = _count_grid(rows, present)
    found = compute_metrics(grid.confusion)
    i, j = grid.find(present)
    notes = []
    allowed = np.ones(grid.confusion.shape[:2], np.bool_)
    if options.min_precision is not None:
        allowed = np.nan_to_num(found["precision_DSAT"]) >= options.min_precision
    for label in (DSAT, SAT):
        true = int((rows["gold_label"] == label).sum())
        score = _compute_label_f_score(grid.confusion, label, options.beta)
        precision = found[f"precision_{label}"]
        line, values = ((i, slice(None)), grid.dsat) if label == DSAT else ((slice(None), j), grid.sat)
        in_use = getattr(present, label.lower())
        if true < options.min_label:
            notes.append(
                f"{label}: {true} turns of the choosing part have this label, fewer than calibrate.min_label="
                f"{options.min_label}; its threshold stays {in_use:g}."
            )
            continue
        # If no DSAT threshold meets min_precision, still choose the SAT threshold.
        allowed_here = allowed[line] if allowed[i].any() else np.ones(len(values), np.bool_)
        if label == DSAT and not allowed[i].any():
            best = np.nanmax(precision[line], initial=0)
            notes.append(
                f"DSAT: no threshold reaches a precision of {options.min_precision:g} on the choosing part "
                f"(the best has {best:.3f}); the threshold stays {in_use:g}."
            )
            continue
        at = _find_best(score[line], precision[line], values, in_use, allowed_here)
        i, j = (i, at) if label == DSAT else (at, j)
    chosen = Thresholds(sat=float(grid.sat[i]), dsat=float(grid.dsat[j]))
    curves = {
        DSAT: _make_curve(grid.dsat, grid.confusion[i], DSAT),
        SAT: _make_curve(grid.sat, grid.confusion[:, j], SAT),
    }
    return ThresholdChoice(present=present, chosen=chosen, notes=notes, curves=curves)


def render_thresholds(choice: ThresholdChoice, why: str) -> str:
    """Return the chosen thresholds as part of a recipe, in YAML.

    Args:
        choice: thresholds and notes.
        why: first line of the comment; the notes follow it.
    """
    lines = [f"# {escape_invisible(line, 300)}" for line in (why, *choice.notes)]
    return "\n".join(lines) + "\n" + yaml.safe_dump({"label": {"thresholds": choice.chosen.model_dump()}})


def read_thresholds(path: Path) -> Thresholds:
    """Return the thresholds of a file that `render_thresholds` wrote.

    Raises:
        UserError: there is no such file, or it holds no thresholds.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Thresholds.model_validate(values["label"]["thresholds"])
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. `make calibrate` writes such a file."
        ) from error
    except (yaml.YAMLError, ValidationError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no thresholds: it needs `label: {{thresholds: {{sat: …, dsat: …}}}}` ({error!s:.200})."
        ) from error


@dataclass(frozen=True)
class _ThresholdGrid:
    """The confusion table at every pair of candidate thresholds."""

    sat: Floats  # (i,) rising
    dsat: Floats  # (j,) rising
    confusion: Counts  # (i, j, 3, 3) turns: gold label, given label

    def find(self, thresholds: Thresholds) -> tuple[int, int]:
        """Return the indices of a pair of candidates."""
        return (
            int(np.searchsorted(self.sat, thresholds.sat)),
            int(np.searchsorted(self.dsat, thresholds.dsat)),
        )


def _count_grid(rows: pl.DataFrame, present: Thresholds) -> _ThresholdGrid:
    """Count the confusion table at every pair of candidates.

    Turns whose two scores both reach their thresholds are DSAT if an item asks for a change, else NEUTRAL.
    """
    scores = {name: rows[name].to_numpy().astype(np.float64) for name in ("sat_score", "dsat_score")}
    sat, dsat = (
        _choose_candidates(scores["sat_score"], present.sat),
        _choose_candidates(scores["dsat_score"], present.dsat),
    )
    reached = [  # number of thresholds that each row reaches
        np.searchsorted(values, score, side="right")
        for values, score in zip((sat, dsat), scores.values(), strict=True)
    ]
    truth = rows["gold_label"].replace_strict(LABELS, range(len(LABELS)), return_dtype=pl.Int64).to_numpy()
    shape = (len(sat) + 1, len(dsat) + 1, 2, len(LABELS))
    codes = np.ravel_multi_index((*reached, rows["change"].to_numpy().astype(np.int64), truth), shape)
    histogram = np.bincount(codes, minlength=int(np.prod(shape))).reshape(shape)
    by_dsat = _count_at_least(histogram.sum((0, 2)), 0)  # (j, 3)
    by_sat = _count_at_least(histogram.sum((1, 2)), 0)  # (i, 3)
    both = _count_at_least(_count_at_least(histogram, 0), 1)  # (i, j, change, 3)
    given = {DSAT: by_dsat[None] - both[:, :, 0], SAT: by_sat[:, None] - both.sum(2)}
    given[NEUTRAL] = histogram.sum((0, 1, 2)) - given[DSAT] - given[SAT]
    return _ThresholdGrid(sat, dsat, np.stack([given[label] for label in LABELS], -1))


def _choose_candidates(scores: Floats, present: float) -> Floats:
    """Return the thresholds to try, rising: the distinct positive scores, and the present threshold."""
    distinct = np.unique(scores[scores > 0])
    if len(distinct) > _MAX_CANDIDATES:
        distinct = np.unique(np.quantile(distinct, np.linspace(0, 1, _MAX_CANDIDATES), method="nearest"))
    return np.union1d(distinct, [present])


def _count_at_least(histogram: Counts, axis: int) -> Counts:
    """Return, for each threshold along an axis, the number of turns that reach it.

    Args:
        histogram: counts by the number of thresholds that a turn reaches, from 0 to n, along `axis`.
        axis: axis of the thresholds.

    Returns:
        Counts whose `axis` has length n.
    """
    sums = np.flip(np.cumsum(np.flip(histogram, axis), axis), axis)
    return np.delete(sums, 0, axis)


def _compute_label_f_score(confusion: Counts, label: str, beta: float) -> Floats:
    """Return (…,) F-scores of a label in (…, 3, 3) confusion tables."""
    at = LABELS.index(label)
    return compute_f_score(
        confusion[..., at, at], confusion[..., at].sum(-1), confusion[..., at, :].sum(-1), beta
    )


def _find_best(score: Floats, precision: Floats, values: Floats, present: float, allowed: np.ndarray) -> int:
    """Return the index of the best candidate, by the order in `choose_thresholds`; allowed ones come first."""
    ranked = np.lexsort((values, values == present, np.nan_to_num(precision), score, allowed))
    return int(ranked[-1])


def _make_curve(values: Floats, confusion: Counts, label: str) -> list[ThresholdPoint]:
    """Return the points of a label's candidates.

    Args:
        values: (n,) candidates.
        confusion: (n, 3, 3) counts at each candidate.
        label: SAT or DSAT.
    """
    at, found = LABELS.index(label), compute_metrics(confusion)
    return [
        ThresholdPoint(
            threshold=float(value),
            given=int(confusion[row, :, at].sum()),
            right=int(confusion[row, at, at]),
            **{name: nan_to_none(found[f"{name}_{label}"][row]) for name in ("precision", "recall", "f1")},
        )
        for row, value in enumerate(values)
    ]
