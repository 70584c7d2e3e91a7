"""The leak filter on real replies: seldom on a first reply, which has no earlier one to speak of."""

import pytest
from real_chats import annotations, chats, needs_data

from drift_train.leaks import find_leak

pytestmark = [pytest.mark.real, needs_data]


def replies() -> tuple[list[str], list[str]]:
    """Return the first replies of all chats, and the replies right after a complaint."""
    complaints = {key for key, row in annotations().items() if row["label"] == "DSAT"}
    first, after = [], []
    for chat in chats():
        for i, message in enumerate(chat["conversation"]):
            if message["role"] != "assistant":
                continue
            if i == 1:
                first.append(message["content"])
            elif (chat["conversation_hash"], i - 1) in complaints:
                after.append(message["content"])
    return first, after


def test_the_leak_filter_is_precise_and_finds_the_usual_apologies() -> None:
    first, after = replies()
    false, found = sum(map(bool, map(find_leak, first))), sum(map(bool, map(find_leak, after)))
    print(f"leaks: {false} of {len(first)} first replies, {found} of {len(after)} replies to a complaint")
    assert false / len(first) <= 0.015  # measured: 3 of 353
    assert found / len(after) >= 0.14  # measured: 38 of 234
