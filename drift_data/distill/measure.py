"""Measures a trained student: makes the report from its answers to the teacher's turns."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import polars as pl

from drift_data.calibrate.summary import compare_labels, measure_gain
from drift_data.calibrate.thresholds import decide_labels
from drift_data.distill.cascade import measure_bands, recommend_band
from drift_data.distill.comparisons import (
    SHIPPED_TITLE,
    add_scores,
    compare_with_baselines,
    compute_all_curves,
    find_usual_label,
    label_by_baselines,
)
from drift_data.distill.cost import read_teacher_cost
from drift_data.distill.student import Student
from drift_data.distill.summary import (
    DistillReport,
    LearningCurvePoint,
    compute_calibration,
    measure_item_naming,
)
from drift_data.distill.task import DistillTask
from drift_data.distill.teacher import Teacher
from drift_data.distill.thresholds import choose_dsat_threshold, find_operating_points
from drift_data.judge.options import Thresholds
from drift_data.labels.tables import KEY_COLUMNS
from drift_data.schema import LABELS

# Reasons why a turn of the teacher is left out.
OVER_CAP_REASON: Final = "over distill.max_turns"
NOT_FOUND_REASON: Final = "no feedback turn of the conversations"


def add_predictions(
    rows: pl.DataFrame, thresholds: Thresholds, change_items: Collection[str], truth: Teacher | None
) -> pl.DataFrame:
    """Return a student's rows with its scores and labels, and with the labels to believe.

    Args:
        rows: turns with `probability` and `guessed`, such as `Student.rows`.
        thresholds: thresholds of the recipe.
        change_items: items that ask for a change.
        truth: labels to believe rather than the teacher's.

    Returns:
        The rows with `dsat_score`, `change`, `predicted` (label) and, if there are labels to believe, `truth` (null
        where a turn has none).
    """
    found = add_scores(rows, rows["probability"], rows["guessed"], change_items)
    found = found.with_columns(predicted=decide_labels(thresholds))
    if truth is None:
        return found
    known = truth.rows.select(*KEY_COLUMNS, truth="label")
    return found.join(known, on=KEY_COLUMNS, how="left", maintain_order="left")


def measure_student(
    task: DistillTask, student: Student, rows: pl.DataFrame, left_out: dict[str, int], conversations: int
) -> DistillReport:
    """Return the report on a trained student.

    Args:
        task: what was distilled, and how.
        student: the trained classifier.
        rows: `Student.rows` as `add_predictions` returns them.
        left_out: reason → number of the teacher's turns that are not among the rows.
        conversations: number of conversations in the workspace.
    """
    seed, change_items = task.options.seed, task.rubric.change_items
    learned, held_out = rows.filter(~pl.col("held_out")), rows.filter("held_out")
    usual = find_usual_label(learned)
    choice = choose_dsat_threshold(learned, task.thresholds, task.choosing, seed)
    views, held_out_views = (
        compare_with_baselines(turns, task.thresholds, choice.chosen, change_items, usual, seed)
        if turns.height
        else []
        for turns in (learned, held_out)
    )
    cost = read_teacher_cost(task.teacher.manifest, conversations)
    cascade = measure_bands(learned, task.thresholds.dsat, cost.all_price if cost else None, seed)
    shipped = label_by_baselines(learned, task.thresholds, change_items, usual)[SHIPPED_TITLE]
    curves = compute_all_curves(held_out if held_out.height else learned, task.thresholds, change_items)
    return DistillReport(
        name=task.name,
        teacher=task.teacher.name,
        judge=task.teacher.judge,
        gold=task.truth.name if task.truth else None,
        model=student.model.hash,
        labels={label: int((learned["gold_label"] == label).sum()) for label in LABELS},
        turns=learned.height,
        conversations=learned["conversation_id"].n_unique(),
        written=len(task.written.examples) if task.written else 0,
        notes=_list_notes(task, rows, left_out),
        views=views,
        gain=measure_gain(learned, learned["predicted"], shipped, seed),
        hold_out=task.options.hold_out,
        held_out=held_out_views,
        choice=choice,
        targets=find_operating_points(learned, task.thresholds, seed),
        calibration=compute_calibration(learned),
        items=measure_item_naming(learned, student.model.card.items),
        learning=_measure_learning_curve(task, student, rows),
        ceiling=task.options.ceiling,
        curves=curves,
        money=cost,
        cascade=cascade,
        band=recommend_band(cascade),
    )


def _measure_learning_curve(
    task: DistillTask, student: Student, rows: pl.DataFrame
) -> list[LearningCurvePoint]:
    """Return a point for each share that was trained on, and a point for all; empty without a learning curve."""
    if not student.parts:
        return []
    parts = {
        share: part
        if part is None
        else add_predictions(part, task.thresholds, task.rubric.change_items, task.truth)
        for share, part in student.parts.items()
    }
    return [_measure_part(share, part, task.options.seed) for share, part in {**parts, 1.0: rows}.items()]


def _measure_part(share: float, rows: pl.DataFrame | None, seed: int) -> LearningCurvePoint:
    """Return a point of the learning curve; `rows` is None when the share had too few turns."""
    if rows is None:
        return LearningCurvePoint(share=share, view=None, held_out=None)
    learned, held_out = rows.filter(~pl.col("held_out")), rows.filter("held_out")
    title = f"{share:.0%} of the conversations"
    return LearningCurvePoint(
        share=share,
        view=compare_labels(title, learned, learned["predicted"], seed),
        held_out=compare_labels(title, held_out, held_out["predicted"], seed) if held_out.height else None,
    )


def _list_notes(task: DistillTask, rows: pl.DataFrame, left_out: dict[str, int]) -> list[str]:
    """Return the caveats of the report: turns left out, labels to believe, what the shipped classifier learned from."""
    notes = list(task.teacher.notes)
    notes += [
        f"{count:,} turns of {task.teacher.name} are left out: {reason}."
        for reason, count in left_out.items()
        if count
    ]
    if task.truth is not None:
        known = rows["truth"].drop_nulls().len()
        notes += [f"{known:,} of the turns have a label in {task.truth.name}.", *task.truth.notes]
    if task.other_items and task.written is not None:
        notes.append(
            "The teacher names items that the shipped rubric does not have: the classifier learns from our written "
            "texts without their items."
        )
    card = task.shipped.card
    notes.append(
        f"The shipped classifier ({card.name}) was trained on {card.data['turns']:,} turns of "
        f"{card.data['conversations']:,} {card.data['about']}. Its figures here are too good if "
        "conversations of this report are among those."
    )
    return notes
