"""The distill stage: a teacher's labels × conversations → a classifier for the local judge, with its report.

Everything reported is of models that have not seen the conversation. Nobody is asked anything.
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
from drift_data.calibrate.thresholds import render_thresholds
from drift_data.calibrate.training_overlap import WARNING_PREFIX
from drift_data.chats.order import HOLD_OUT_EVEN, LEARNING_CURVE, TEACHER_CAP
from drift_data.distill.examples import Taught, taught, written
from drift_data.distill.measure import OVER_CAP, UNKNOWN, answered, measured
from drift_data.distill.options import DistillOptions
from drift_data.distill.page import render
from drift_data.distill.student import fit, with_quality
from drift_data.distill.task import Assignment
from drift_data.distill.teacher import Teacher, capped, read_teacher, read_truth, short_name
from drift_data.judge.label_rule import Thresholds
from drift_data.judge.local.cues import load_cues
from drift_data.judge.local.features import VERSION
from drift_data.judge.local.model import DISTILLED, fingerprint, load_model
from drift_data.judge.local.options import MODEL_FILE
from drift_data.judge.rubric import load_rubric
from drift_data.labels.tables import KEYS
from drift_data.schema import DROPPED, LABELS, PREDICTIONS, TableName
from drift_data.workspace import Output, UserError, Workspace

STAGE: Final = "distill"
REPORT, RESULT, THRESHOLDS = "report.html", "distill.json", "thresholds.yaml"
_CARD: Final = ("precision_DSAT", "recall_DSAT", "f1_DSAT", "kappa_dsat", "kappa", "macro_f1")


def distill(
    workspace: Workspace,
    labels: str | None,
    gold: str | None,
    name: str | None,
    thresholds: Thresholds,
    choosing: ThresholdOptions,
    options: DistillOptions,
) -> str:
    """Train a classifier from a teacher's labels and report what it is worth.

    Args:
        workspace: holds `conversations` and the labels.
        labels: the teacher's table as typed, such as "openai-sample".
        gold: a file or table of labelled turns: the teacher, when no labels are given; else the labels to
            believe, against which the cascade is measured, too.
        name: of the classifier; by default the teacher's.
        thresholds: of the recipe.
        choosing: what makes one threshold better than another.
        options: how.

    Returns:
        The folder of the workspace with `model.npz`, `report.html`, `distill.json`, `thresholds.yaml` and the
        table of predictions.

    Raises:
        UserError: there are no such labels, or too few.
    """
    teacher = read_teacher(workspace, labels, gold)
    truth = read_truth(workspace, gold) if labels is not None and gold is not None else None
    if truth is not None and truth.name == teacher.name:
        raise UserError(f"GOLD={gold} is the teacher itself. Leave it out, or give other labels.")
    rubric, shipped = load_rubric(), load_model()
    other_items = tuple(sorted({*teacher.rows["item"].drop_nulls()} - {*rubric.polarities}))
    own = written(rubric, not other_items) if options.written else None
    name = name or short_name(teacher)
    task = Assignment(name, teacher, truth, own, other_items, thresholds, choosing, options, rubric, shipped)
    folder = f"{DISTILLED}/{name}"

    def build(outputs: Mapping[str, Output]) -> None:
        out = outputs[folder]
        rows = capped(teacher.rows, options.max_turns)
        if rows.height < teacher.rows.height:
            print(
                f"distill: of {teacher.rows.height:,} turns of {teacher.name} only {rows.height:,} are read, by the "
                f"hash of their conversations: distill.max_turns={options.max_turns}",
                file=sys.stderr,
            )
        found = taught(workspace, rows, options.hold_out, shipped)
        if found is None:
            raise UserError(
                f"No turn of {teacher.name} is a feedback turn of {workspace.path(TableName.CONVERSATIONS)}: it begins with "
                f"{teacher.rows.select(KEYS).head(1).rows()}. Were these labels made for other conversations?"
            )
        student = fit(name, found, own.examples if own else None, options, _data(workspace, task, found))
        answers = answered(task, student.rows)
        left_out = list(_left_out(teacher.rows, rows, answers))
        reasons = Counter(row["reason"] for row in left_out)
        conversations = workspace.require(TableName.CONVERSATIONS).rows_out
        result = measured(task, student, answers, dict(reasons), conversations)
        quality = {"measured": "out of fold, on the teacher's turns", **_figures(result.views[0])}
        if result.held_out:
            quality["held_out"] = _figures(result.held_out[0])
        with_quality(student.model, quality).save(out.folder / MODEL_FILE)
        (out.folder / REPORT).write_text(render(result), encoding="utf-8")
        (out.folder / RESULT).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        why = f"Thresholds for local:{name}, chosen by `make distill` on {teacher.name}."
        (out.folder / THRESHOLDS).write_text(render_thresholds(result.choice, why), encoding="utf-8")
        out.rows_in = teacher.rows.height
        out.table(PREDICTIONS).write(
            answers.select(
                *KEYS, "probability", "predicted", "held_out", label="gold_label", item="guessed"
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
        "features": VERSION,
        "cues": load_cues().hash,
        "shipped": shipped.hash,
    }
    made = workspace.run(
        STAGE,
        [folder],
        build,
        options=known | ({"orders": orders} if (orders := _orders(teacher, options)) else {}),
        earlier_options=known,
        inputs=list(
            dict.fromkeys([TableName.CONVERSATIONS, *teacher.inputs, *(truth.inputs if truth else ())])
        ),
        files={**teacher.files, **(truth.files if truth else {})},
    )
    if not made:
        _warn_of_earlier(workspace, folder, teacher, options)
    return folder


def _orders(teacher: Teacher, options: DistillOptions) -> dict[str, str]:
    """Return option → salt of the order in which it chooses; only of those that choose something."""
    chooses = {
        "max_turns": (teacher.rows.height > options.max_turns, TEACHER_CAP),
        "learning_curve": (options.learning_curve, LEARNING_CURVE),
        "hold_out": (options.hold_out is not None and options.hold_out % 2 == 0, HOLD_OUT_EVEN),
    }
    return {option: purpose.salt for option, (choosing, purpose) in chooses.items() if choosing}


def _warn_of_earlier(workspace: Workspace, folder: str, teacher: Teacher, options: DistillOptions) -> None:
    """Say of a finished classifier what an earlier version of this toolkit made differently."""
    made = workspace.require(folder)
    earlier = _orders(teacher, options).keys() if "orders" not in made.options else ()
    said = json.loads((workspace.path(folder) / RESULT).read_bytes())["notes"]
    warnings = [note for note in teacher.notes if note.startswith(WARNING_PREFIX) and note not in said]
    if "max_turns" in earlier:
        warnings.append(
            f"{WARNING_PREFIX} an earlier version of this toolkit made {folder}. Of more turns than distill.max_turns it read "
            "those of the test split first, so the classifier has learned from rows held out for testing."
        )
    if "hold_out" in earlier:
        warnings.append(
            f"{WARNING_PREFIX} an earlier version of this toolkit made {folder}. All conversations that it held out are in the "
            "part of the gold on which `make calibrate` chooses thresholds, and none in the part on which it reports."
        )
    if earlier and warnings:
        warnings.append(f"{folder} is kept. To distil it anew, delete it in the workspace.")
    for warning in warnings:
        print(f"{STAGE}: {warning}", file=sys.stderr)


def _data(workspace: Workspace, task: Assignment, found: Taught) -> dict[str, Any]:
    """Return what the model's card says of the turns it was made from."""
    learned = found.rows.filter(~pl.col("held_out"))
    own, options = task.written, task.options
    return {
        "about": options.about,
        "teacher": task.teacher.judge,
        "labels_of": task.teacher.name,
        "turns": learned.height,
        "conversations": learned["conversation_id"].n_unique(),
        "learned_from": sorted(map(fingerprint, learned["conversation_id"].unique())),
        "labels": {label: int((learned["gold_label"] == label).sum()) for label in LABELS},
        "hold_out": options.hold_out,
        "held_out": found.rows.height - learned.height,
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


def _figures(measured: Comparison) -> dict[str, Any]:
    found = {name: measured.figures[name].model_dump() for name in _CARD}
    return {"turns": measured.turns, "conversations": measured.conversations, **found}


def _left_out(every: pl.DataFrame, read: pl.DataFrame, known: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the teacher's turns that are not among the known, with the reason."""
    over, missing = every.join(read, on=KEYS, how="anti"), read.join(known, on=KEYS, how="anti")
    for rows, reason in ((over, OVER_CAP), (missing, UNKNOWN)):
        for conversation, turn, label in rows.select(*KEYS, "label").iter_rows():
            yield {"conversation_id": conversation, "turn": turn, "reason": reason, "detail": label}
