"""Makes the results of learning: the rubric, the comment above it, and the tables that show how it came about."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from drift_data.chats.safe_text import escape_invisible
from drift_data.judge.rubric import Rubric
from drift_data.rubric.examples import DrawnConversations
from drift_data.rubric.extract import Extraction
from drift_data.rubric.fold import Fold
from drift_data.rubric.options import LearnOptions
from drift_data.rubric.tables import FOLD_ROWS, REASON_ROWS
from drift_data.schema import DROPPED, DSAT, SAT
from drift_data.workspace import Output

MAX_DETAIL: Final = 300  # characters of a failure's detail that are kept


def write_reasons(out: Output, extractions: Sequence[Extraction]) -> dict[str, list[str]]:
    """Write the reasons that each conversation gave, and return all reasons by label, in order."""
    reasons: dict[str, list[str]] = {SAT: [], DSAT: []}
    table = out.table(REASON_ROWS)
    for task in extractions:
        example = task.example
        row: dict[str, Any] = {"conversation_id": example.conversation_id, "turn": example.turn}
        if task.answer is None:
            reason, detail = task.failure or ("no_answer", None)
            detail = escape_invisible(detail, MAX_DETAIL) if detail else None
            out.drop([row | {"reason": reason, "detail": detail}], DROPPED)
            continue
        found = list(task.answer)
        table.write_rows([row | {"label": example.label, "reasons": found, "request": task.key}])
        reasons[example.label] += found
    return reasons


def write_folds(out: Output, folds: Mapping[str, Fold]) -> None:
    """Write each step of both folds."""
    table = out.table(FOLD_ROWS)
    for polarity, fold in folds.items():
        for step in fold.steps:
            row = {
                "polarity": polarity,
                "step": step.number,
                "reasons": list(step.reasons),
                "before": [item.model_dump(exclude={"polarity"}) for item in step.before],
                "after": [item.model_dump(exclude={"polarity"}) for item in step.after],
                "problem": step.problem,
                "request": step.key,
            }
            table.write_rows([row])
    out.results = {polarity: len(fold.steps) for polarity, fold in folds.items()}


def make_rubric(folds: Mapping[str, Fold]) -> Rubric:
    """Return the rubric with the items of both folds, satisfaction first.

    A DSAT item whose name a SAT item still has gets the ending `_DSAT`.
    """
    items = [*folds[SAT].items]
    taken = {item.name.lower() for item in items}
    for item in folds[DSAT].items:
        name = item.name
        while name.lower() in taken:
            name += f"_{DSAT}"
        if name != item.name:
            print_rubric_line(
                f"WARNING: the model gave two items the name {item.name}: one of them is now {name}"
            )
        taken.add(name.lower())
        items.append(item.model_copy(update={"name": name}))
    return Rubric(name="learned", items=tuple(items))


def describe_rubric(
    model: str, options: LearnOptions, extractions: Sequence[Extraction], folds: Mapping[str, Fold]
) -> list[str]:
    """Return the comment above a learned rubric: what it was made from, and how to use it."""
    read = Counter(task.example.label for task in extractions if task.answer is not None)
    steps = {polarity: len(fold.steps) for polarity, fold in folds.items()}
    return [
        f"Learned by {model}",
        f"from {read[SAT]:,} conversations of satisfied users (steps of the fold: {steps[SAT]}) and {read[DSAT]:,} "
        f"of dissatisfied ones ({steps[DSAT]}), with at most {options.batch:,} reasons a step.",
        "Items: satisfaction first, then dissatisfaction, each in the model's order: the most frequent first.",
        "How they came about is in the tables rubric/reasons and rubric/folds of the workspace.",
        "Edit a copy and label with RUBRIC=file: names go into the label table, definitions into the prompt.",
        "`asks_for_change: true` marks what asks for another version of the same reply: where praise and complaint",
        "meet in one message, such an item makes the turn DSAT.",
    ]


def count_results(drawn: DrawnConversations, extractions: Sequence[Extraction]) -> dict[str, Any]:
    """Return the figures of the extraction for the manifest."""

    def count(label: str) -> dict[str, int]:
        answers = [task.answer for task in extractions if task.example.label == label]
        return {
            "available": drawn.available.get(label, 0),
            "read": len(answers),
            "without_reason": answers.count(()),
            "reasons": sum(len(answer) for answer in answers if answer is not None),
        }

    return {SAT: count(SAT), DSAT: count(DSAT), "without_thumb": drawn.unmarked}


def print_rubric_line(text: str) -> None:
    """Print a line about the rubric stage, beside the progress bars."""
    print(f"rubric: {text}", file=sys.stderr)
