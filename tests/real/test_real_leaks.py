"""The leak filter on real replies: seldom on a first reply, which has no earlier one to speak of."""

import csv
import json
from pathlib import Path

import pytest

from drift_train.leaks import find_leak

LOGS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "wildchat"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not LOGS.is_dir(), reason=f"the real logs are not there: {LOGS}"),
]


def replies() -> tuple[list[str], list[str]]:
    """Return the first replies of all chats, and the replies right after a complaint."""
    with (LOGS / "labels.csv").open() as file:
        labels = {(row["conversation_hash"], int(row["turn"])): row["label"] for row in csv.DictReader(file)}
    first, after = [], []
    with (LOGS / "conversations.jsonl").open() as file:
        for chat in map(json.loads, file):
            for i, message in enumerate(chat["conversation"]):
                if message["role"] != "assistant":
                    continue
                if i == 1:
                    first.append(message["content"])
                elif labels.get((chat["conversation_hash"], i - 1)) == "DSAT":
                    after.append(message["content"])
    return first, after


def test_the_leak_filter_is_precise_and_finds_the_usual_apologies() -> None:
    first, after = replies()
    false, found = sum(map(bool, map(find_leak, first))), sum(map(bool, map(find_leak, after)))
    print(f"leaks: {false} of {len(first)} first replies, {found} of {len(after)} replies to a complaint")
    assert false / len(first) <= 0.015  # measured: 3 of 353
    assert found / len(after) >= 0.14  # measured: 38 of 234
