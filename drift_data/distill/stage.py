"""Runs `make distill`: trains a classifier for the local judge from a teacher's labels, and reports on it.

Every reported answer to a turn comes from a model that has not seen the turn's conversation. The stage asks no judge.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl

from drift_data.calibrate.options import ThresholdOptions
from drift_data.calibrate.summary import Comparison
from drift_data.calibrate.thresholds import THRESHOLDS_FILE, render_thresholds
from drift_data.calibrate.training_overlap import WARNING_PREFIX
from drift_data.chats.order import HOLD_OUT_EVEN, LEARNING_CURVE, TEACHER_CAP
from drift_data.distill.examples import TaughtTurns, load_taught_turns, load_written_turns
from drift_data.distill.measure import NOT_FOUND_REASON, OVER_CAP_REASON, add_predictions, measure_student
from drift_data.distill.options import DistillOptions
from drift_data.distill.page import render_distill_page
from drift_data.distill.student import add_quality, train_student
from drift_data.distill.task import DistillTask
from drift_data.distill.teacher import Teacher, cap_turns, choose_default_name, read_teacher, read_truth
from drift_data.judge.local.cues import load_cues
from drift_data.judge.local.features import FEATURES_VERSION
from drift_data.judge.local.model import DISTILLED_FOLDER, fingerprint_conversation, load_classifier
from drift_data.judge.local.options import MODEL_FILE
from drift_data.judge.options import Thresholds
from drift_data.judge.rubric import load_rubric
from drift_data.labels.tables import KEY_COLUMNS
from drift_data.schema import DROPPED, LABELS, PREDICTIONS, TableName
from drift_data.workspace import Output, UserError, Workspace

DISTILL_STAGE: Final = "distill"
DISTILL_PAGE_FILE, DISTILL_FILE = "report.html", "distill.json"
# Metrics that the classifier's card shows.
_CARD_METRICS: Final = ("precision_DSAT", "recall_DSAT", "f1_DSAT", "kappa_dsat", "kappa", "macro_f1")


def distill_labels(
    workspace: Workspace,
    labels: str | None,
    gold: str | None,
    name: str | None,
    thresholds: Thresholds,
    choosing: ThresholdOptions,
    options: DistillOptions,
) -> str:
    """Train a classifier from a teacher's labels, and report how good it is.

    Args:
        workspace: holds `conversations` and the labels.
        labels: the teacher's table as typed, such as "openai-sample".
        gold: a file or table of labelled turns. Without `labels` these turns are the teacher's. With `labels` they are
            the labels to believe, and the cascade is measured against them, too.
        name: name of the classifier; by default the teacher's.
        thresholds: thresholds of the recipe.
        choosing: how the DSAT threshold is chosen.
        options: what to learn from, and how to measure.

    Returns:
        The folder of the workspace with `model.npz`, `report.html`, `distill.json`, `thresholds.yaml` and the
        table of predictions.

    Raises:
        UserError: there are no such labels, or too few of them.
    """
    teacher = read_teacher(workspace, labels, gold)
    truth = read_truth(workspace, gold) if labels is not None and gold is not None else None
    if truth is not None and truth.name == teacher.name:
        raise UserError(
            f"GOLD={gold} and LABELS= name the same table. Leave GOLD= out, or give other labels."
        )
    rubric, shipped = load_rubric(), load_classifier()
    other_items = tuple(sorted({*teacher.rows["item"].drop_nulls()} - {*rubric.polarities}))
    own = load_written_turns(rubric, not other_items) if options.written else None
    name = name or choose_default_name(teacher)
    task = DistillTask(name, teacher, truth, own, other_items, thresholds, choosing, options, rubric, shipped)
    folder = f"{DISTILLED_FOLDER}/{name}"

    def build(outputs: Mapping[str, Output]) -> None:
        out = outputs[folder]
        rows = cap_turns(teacher.rows, options.max_turns)
        if rows.height < teacher.rows.height:
            print(
                f"distill: {rows.height:,} of {teacher.rows.height:,} turns of {teacher.name} are read, because "
                f"distill.max_turns={options.max_turns}; a hash decides which conversations they belong to",
                file=sys.stderr,
            )
        turns = load_taught_turns(workspace, rows, options.hold_out, shipped)
        if turns is None:
            raise UserError(
                f"No turn of {teacher.name} is a feedback turn of {workspace.path(TableName.CONVERSATIONS)}: the "
                "labels begin with "
                f"{teacher.rows.select(KEY_COLUMNS).head(1).rows()}. Were these labels made for other conversations?"
            )
        student = train_student(
            name, turns, own.examples if own else None, options, _describe_data(workspace, task, turns)
        )
        answers = add_predictions(student.rows, thresholds, rubric.change_items, truth)
        left_out = list(_iter_left_out(teacher.rows, rows, answers))
        reasons = Counter(row["reason"] for row in left_out)
        conversations = workspace.require(TableName.CONVERSATIONS).rows_out
        result = measure_student(task, student, answers, dict(reasons), conversations)
        quality = {"measured": "out of fold, on the teacher's turns", **_list_card_metrics(result.views[0])}
        if result.held_out:
            quality["held_out"] = _list_card_metrics(result.held_out[0])
        add_quality(student.model, quality).save(out.folder / MODEL_FILE)
        (out.folder / DISTILL_PAGE_FILE).write_text(render_distill_page(result), encoding="utf-8")
        (out.folder / DISTILL_FILE).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        why = f"Thresholds for local:{name}, chosen by `make distill` on {teacher.name}."
        (out.folder / THRESHOLDS_FILE).write_text(render_thresholds(result.choice, why), encoding="utf-8")
        out.rows_in = teacher.rows.height
        out.table(PREDICTIONS).write(
            answers.select(
                *KEY_COLUMNS, "probability", "predicted", "held_out", label="gold_label", item="guessed"
            ).to_arrow()
        )
        out.drop(left_out, DROPPED)
        out.made_by = {"teacher": teacher.judge, "model": student.model.hash}
        out.results = quality

    known = {
        "teacher": teacher.name,
        "gold": truth.name if truth else None,
        "thresholds": thresholds.model_dump(),
        "choosing": choosing.model_dump(include={*ThresholdOptions.model_fields}),
        "distill": options.model_dump(),
        "written": own.digest if own else None,
        "features": FEATURES_VERSION,
        "cues": load_cues().hash,
        "shipped": shipped.hash,
    }
    made = workspace.run(
        DISTILL_STAGE,
        [folder],
        build,
        options=known | ({"orders": orders} if (orders := _list_orders(teacher, options)) else {}),
        earlier_options=known,
        inputs=list(
            dict.fromkeys([TableName.CONVERSATIONS, *teacher.inputs, *(truth.inputs if truth else ())])
        ),
        files={**teacher.files, **(truth.files if truth else {})},
    )
    if not made:
        _warn_of_earlier_version(workspace, folder, teacher, options)
    return folder


def _list_orders(teacher: Teacher, options: DistillOptions) -> dict[str, str]:
    """Return the salt of the order that each option draws conversations in; an option that draws none is left out."""
    chooses = {
        "max_turns": (teacher.rows.height > options.max_turns, TEACHER_CAP),
        "learning_curve": (options.learning_curve, LEARNING_CURVE),
        "hold_out": (options.hold_out is not None and options.hold_out % 2 == 0, HOLD_OUT_EVEN),
    }
    return {option: purpose.salt for option, (choosing, purpose) in chooses.items() if choosing}


def _warn_of_earlier_version(
    workspace: Workspace, folder: str, teacher: Teacher, options: DistillOptions
) -> None:
    """Print warnings if an earlier version of this toolkit made the classifier and chose conversations badly."""
    made = workspace.require(folder)
    earlier = _list_orders(teacher, options).keys() if "orders" not in made.options else ()
    said = json.loads((workspace.path(folder) / DISTILL_FILE).read_bytes())["notes"]
    warnings = [note for note in teacher.notes if note.startswith(WARNING_PREFIX) and note not in said]
    if "max_turns" in earlier:
        warnings.append(
            f"{WARNING_PREFIX} an earlier version of this toolkit made {folder}. Because the teacher has more "
            "turns than distill.max_turns, it read those of the test split first, so the classifier has learned from rows "
            "held out for testing."
        )
    if "hold_out" in earlier:
        warnings.append(
            f"{WARNING_PREFIX} an earlier version of this toolkit made {folder}. All conversations that it held out are in the "
            "part of the gold on which `make calibrate` chooses thresholds, and none in the part on which it reports."
        )
    if earlier and warnings:
        warnings.append(f"{folder} is kept. To distil it anew, delete it in the workspace.")
    for warning in warnings:
        print(f"{DISTILL_STAGE}: {warning}", file=sys.stderr)


def _describe_data(workspace: Workspace, task: DistillTask, turns: TaughtTurns) -> dict[str, Any]:
    """Return what the classifier's card says about the turns from which the classifier learned."""
    learned = turns.rows.filter(~pl.col("held_out"))
    own, options = task.written, task.options
    return {
        "about": options.about,
        "teacher": task.teacher.judge,
        "labels_of": task.teacher.name,
        "turns": learned.height,
        "conversations": learned["conversation_id"].n_unique(),
        "learned_from": sorted(map(fingerprint_conversation, learned["conversation_id"].unique())),
        "labels": {label: int((learned["gold_label"] == label).sum()) for label in LABELS},
        "hold_out": options.hold_out,
        "held_out": turns.rows.height - learned.height,
        "written": {
            "turns": len(own.examples),
            "conversations": own.conversations,
            "languages": own.languages,
            "digest": own.digest,
        }
        if own
        else None,
        "digests": {
            **{
                name: workspace.require(name).digest
                for name in (TableName.CONVERSATIONS, *task.teacher.inputs)
            },
            **task.teacher.files,
        },
    }


def _list_card_metrics(measured: Comparison) -> dict[str, Any]:
    """Return what the classifier's card shows of a comparison."""
    found = {name: measured.figures[name].model_dump() for name in _CARD_METRICS}
    return {"turns": measured.turns, "conversations": measured.conversations, **found}


def _iter_left_out(
    every: pl.DataFrame, read: pl.DataFrame, answered: pl.DataFrame
) -> Iterator[dict[str, Any]]:
    """Yield the teacher's turns that the classifier does not answer, with the reason.

    Args:
        every: all turns of the teacher.
        read: the turns that `distill.max_turns` allows.
        answered: the read turns that are feedback turns of the conversations.
    """
    over, missing = (
        every.join(read, on=KEY_COLUMNS, how="anti"),
        read.join(answered, on=KEY_COLUMNS, how="anti"),
    )
    for rows, reason in ((over, OVER_CAP_REASON), (missing, NOT_FOUND_REASON)):
        for conversation, turn, label in rows.select(*KEY_COLUMNS, "label").iter_rows():
            yield {"conversation_id": conversation, "turn": turn, "reason": reason, "detail": label}
