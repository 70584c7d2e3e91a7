"""The real conversations of `../shared/data` and their annotations, which are no part of the project."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from drift_data.distill.examples import is_held_out as divisible
from drift_data.schema import CONVERSATIONS, LABEL_ROWS
from drift_data.workspace import Workspace
from tests.helpers.paths import ROOT

DATA = ROOT.parent / "shared" / "data"
LOGS = DATA / "wildchat" / "conversations.jsonl"
GOLD = DATA / "wildchat" / "labels.csv"
needs_data = pytest.mark.skipif(
    not LOGS.is_file(), reason=f"{LOGS} is not there: the real logs are not part of the project"
)


def chats() -> list[dict[str, Any]]:
    """Return all conversations, as the file has them."""
    with LOGS.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def annotations() -> dict[tuple[str, int], dict[str, str]]:
    """Return the annotation of every feedback turn by (conversation, turn)."""
    with GOLD.open(encoding="utf-8", newline="") as file:
        return {(row["conversation_hash"], int(row["turn"])): row for row in csv.DictReader(file)}


def held_out(conversation: str) -> bool:
    """Say whether a conversation is in the third that is for measuring only."""
    return divisible(conversation, 3)


def annotated(folder: Path) -> Workspace:
    """Return a workspace of all conversations, those that convert leaves out included.

    The annotations are its labels/held (the held-out third) and labels/seen.
    """
    workspace = Workspace(folder)

    def build(outputs) -> None:
        outputs["conversations"].table(CONVERSATIONS).write_rows(
            {
                "conversation_id": chat["conversation_hash"],
                "source": "wildchat",
                "messages": [{"role": m["role"], "content": m["content"]} for m in chat["conversation"]],
            }
            for chat in chats()
        )
        for name, wanted in (("labels/held", True), ("labels/seen", False)):
            outputs[name].table(LABEL_ROWS).write_rows(
                {
                    "conversation_id": conversation,
                    "turn": turn,
                    "label": row["label"],
                    "sat_score": 0,
                    "dsat_score": 0,
                    "refusal": row["refusal"] == "true",
                    "judge": "human:annotators",
                    "rubric": "guide",
                }
                for (conversation, turn), row in annotations().items()
                if held_out(conversation) is wanted
            )

    workspace.run("convert", ["conversations", "labels/held", "labels/seen"], build, options={})
    return workspace
