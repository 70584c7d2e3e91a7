"""A trained student's answers → everything the report says. Trains nothing and writes nothing."""

from __future__ import annotations

from typing import Final

import polars as pl

from drift_data.calibrate.summary import compare_labels, measure_gain
from drift_data.calibrate.thresholds import decide_labels
from drift_data.distill.cascade import curve, recommended
from drift_data.distill.comparisons import SHIPPED, baselines, precision_recalls, scored, usual_label, views
from drift_data.distill.cost import money
from drift_data.distill.student import Student
from drift_data.distill.summary import Distilled, Learning, calibration, named_items
from drift_data.distill.task import Assignment
from drift_data.distill.thresholds import operating, targets
from drift_data.labels.tables import KEYS
from drift_data.schema import LABELS

OVER_CAP: Final = "over distill.max_turns"
UNKNOWN: Final = "no feedback turn of the conversations"


def answered(task: Assignment, rows: pl.DataFrame) -> pl.DataFrame:
    """Return a student's rows with the scores, labels (`predicted`) and, where one is known, the `truth`."""
    found = scored(rows, rows["probability"], rows["guessed"], task.rubric.change_items)
    found = found.with_columns(predicted=decide_labels(task.thresholds))
    if task.truth is None:
        return found
    known = task.truth.rows.select(*KEYS, truth="label")
    return found.join(known, on=KEYS, how="left", maintain_order="left")


def measured(
    task: Assignment, student: Student, rows: pl.DataFrame, left_out: dict[str, int], conversations: int
) -> Distilled:
    """Return the report.

    Args:
        task: what was to be done.
        student: that was trained.
        rows: its turns, as `answered` returns them.
        left_out: reason → turns of the teacher that are not among them.
        conversations: in the workspace.
    """
    seed, change = task.options.seed, task.rubric.change_items
    learned, apart = rows.filter(~pl.col("held_out")), rows.filter("held_out")
    usual = usual_label(learned)
    choice = operating(learned, task.thresholds, task.choosing, seed)
    first = views(learned, task.thresholds, choice.chosen, change, usual, seed)
    spent = money(task.teacher.manifest, conversations)
    cascade = curve(learned, task.thresholds.dsat, spent.all_price if spent else None, seed)
    shipped = baselines(learned, task.thresholds, change, usual)[SHIPPED]
    return Distilled(
        name=task.name,
        teacher=task.teacher.name,
        judge=task.teacher.judge,
        gold=task.truth.name if task.truth else None,
        model=student.model.hash,
        labels={label: int((learned["gold_label"] == label).sum()) for label in LABELS},
        turns=learned.height,
        conversations=learned["conversation_id"].n_unique(),
        written=len(task.written.examples) if task.written else 0,
        notes=_notes(task, rows, left_out),
        views=first,
        gain=measure_gain(learned, learned["predicted"], shipped, seed),
        hold_out=task.options.hold_out,
        held_out=views(apart, task.thresholds, choice.chosen, change, usual, seed) if apart.height else [],
        choice=choice,
        targets=targets(learned, task.thresholds, seed),
        calibration=calibration(learned),
        items=named_items(learned, student.model.card.items),
        learning=_learning(task, student, rows),
        ceiling=task.options.ceiling,
        curves=precision_recalls(apart if apart.height else learned, task.thresholds, change),
        money=spent,
        cascade=cascade,
        band=recommended(cascade),
    )


def _learning(task: Assignment, student: Student, rows: pl.DataFrame) -> list[Learning]:
    if not student.parts:
        return []
    every = {share: part if part is None else answered(task, part) for share, part in student.parts.items()}
    return [_part(task, share, part) for share, part in {**every, 1.0: rows}.items()]


def _part(task: Assignment, share: float, rows: pl.DataFrame | None) -> Learning:
    if rows is None:
        return Learning(share=share, view=None, held_out=None)
    learned, apart = rows.filter(~pl.col("held_out")), rows.filter("held_out")
    title, seed = f"{share:.0%} of the conversations", task.options.seed
    return Learning(
        share=share,
        view=compare_labels(title, learned, learned["predicted"], seed),
        held_out=compare_labels(title, apart, apart["predicted"], seed) if apart.height else None,
    )


def _notes(task: Assignment, rows: pl.DataFrame, left_out: dict[str, int]) -> list[str]:
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
            "The teacher names items that the shipped rubric does not know: our written texts are learned from "
            "without their items."
        )
    card = task.shipped.card
    notes.append(
        f"The shipped classifier ({card.name}) was trained on {card.data['turns']:,} turns of "
        f"{card.data['conversations']:,} {card.data['about']}. Where these conversations are among them, its figures "
        "here are too good."
    )
    return notes
