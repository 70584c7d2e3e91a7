"""Label tables with chosen scores, beside conversations that have their turns."""

from pathlib import Path
from typing import Any

import polars as pl

from drift_data.judge.label_rule import decide_label
from drift_data.judge.options import Thresholds
from drift_data.judge.rubric import load_rubric
from drift_data.schema import CONVERSATIONS, DROPPED, DROPPED_RAW, LABEL_ROWS
from drift_data.workspace import Workspace

RUBRIC = load_rubric()
PRESENT = Thresholds(sat=5, dsat=5)


def turn(
    conversation: str, at: int, sat: float = 0, dsat: float = 0, *names: str, **more: Any
) -> dict[str, Any]:
    """Return a label row without its label; `names` are the items seen, each with strength 5."""
    items = [{"name": name, "polarity": RUBRIC.polarities.get(name, "DSAT"), "strength": 5} for name in names]
    row = {"conversation_id": conversation, "turn": at, "sat_score": sat, "dsat_score": dsat, "items": items}
    return {**row, "judge": "test:1", "rubric": RUBRIC.hash, **more}


def write_conversations(
    workspace: Workspace, turns: dict[str, int], text: str = "text", left_out: dict[str, str] | None = None
) -> None:
    """Write conversations whose last message is number `turns[id]`, and those that convert left out."""

    def build(outputs):
        rows = [
            {
                "conversation_id": name,
                "source": "test",
                "messages": [
                    {"role": ("user", "assistant")[at % 2], "content": f"{text} {at} of {name}"}
                    for at in range(last + 1)
                ],
            }
            for name, last in turns.items()
        ]
        outputs["conversations"].table(CONVERSATIONS).write_rows(rows)
        dropped = [
            {"location": f"raw:{at}", "conversation_id": name, "reason": reason, "excerpt": None}
            for at, (name, reason) in enumerate((left_out or {}).items())
        ]
        outputs["conversations"].drop(dropped, DROPPED_RAW)

    workspace.run("convert", ["conversations"], build, options={"turns": turns, "text": text})


def write_labels(
    workspace: Workspace,
    rows: list[dict[str, Any]],
    name: str = "labels/test",
    thresholds: Thresholds | None = PRESENT,
    unlabelled: dict[tuple[str, int], str] | None = None,
    made_by: dict[str, Any] | None = None,
) -> None:
    """Write a label table as the label stage does; without thresholds, each row brings its label.

    `made_by` are further options of the table: which classifier, for one.
    """

    def build(outputs):
        decided = [
            row
            if thresholds is None
            else {
                **row,
                "label": decide_label(
                    row["sat_score"], row["dsat_score"], [item["name"] for item in row["items"]], thresholds
                ),
            }
            for row in rows
        ]
        outputs[name].table(LABEL_ROWS).write_rows(decided)
        dropped = [
            {"conversation_id": conversation, "turn": at, "reason": reason, "detail": None}
            for (conversation, at), reason in (unlabelled or {}).items()
        ]
        outputs[name].drop(dropped, DROPPED)

    options = {
        "judge": "test:1",
        "rubric": RUBRIC.hash,
        "thresholds": thresholds.model_dump() if thresholds else None,
        "rows": len(rows),
        **(made_by or {}),
    }
    workspace.run("label", [name], build, options=options, inputs=["conversations"])


def write_gold(path: Path, rows: list[tuple[Any, ...]], columns: str = "conversation_id,turn,label") -> str:
    """Write a CSV file of gold labels and return its name."""
    names = columns.split(",")
    pl.DataFrame([dict(zip(names, row, strict=True)) for row in rows]).write_csv(path)
    return str(path)
