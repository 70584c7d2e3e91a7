"""The leak filter on real replies: of those that answer a complaint, how many speak of the earlier reply, by language,
and how many of these the filter leaves. A first reply has no earlier one to speak of.

`leak_verdicts.csv` holds what was read for this test and nothing of the logs: by the fingerprint of a reply's place, its
language and whether it speaks of an earlier reply or of the complaint about it. The filter's words were chosen with these
replies in view, so its share on other logs will be lower.
"""

import csv
import hashlib
from collections import Counter
from pathlib import Path

import pytest

from drift_train.pairs.leaks import find_leak
from tests.helpers.real_chats import annotations, chats, needs_data

READ = Path(__file__).parent / "leak_verdicts.csv"

pytestmark = [pytest.mark.real, needs_data]


def fingerprint(conversation: str, message: int) -> str:
    return hashlib.sha256(f"{conversation}\0{message}".encode()).hexdigest()[:16]


def replies() -> tuple[list[str], dict[str, str]]:
    """Return the first replies of all chats, and by fingerprint the replies right after a complaint."""
    complaints = {key for key, row in annotations().items() if row["label"] == "DSAT"}
    first, after = [], {}
    for chat in chats():
        for i, message in enumerate(chat["conversation"]):
            if message["role"] != "assistant":
                continue
            if i == 1:
                first.append(message["content"])
            elif (chat["conversation_hash"], i - 1) in complaints:
                after[fingerprint(chat["conversation_hash"], i)] = message["content"]
    return first, after


def test_the_leak_filter_is_precise_and_finds_most_replies_that_speak_of_an_earlier_one() -> None:
    first, after = replies()
    with READ.open() as file:
        read = {row["fingerprint"]: row for row in csv.DictReader(file)}
    assert read.keys() == after.keys()
    total, speaks, remain, wrong = Counter[str](), Counter[str](), Counter[str](), 0
    for key, reply in after.items():
        language, found = read[key]["language"], find_leak(reply) is not None
        total[language] += 1
        if read[key]["speaks_of_earlier_reply"] == "true":
            speaks[language] += 1
            remain[language] += not found
        else:
            wrong += found
    print("\nlanguage  replies to a complaint  speak of the earlier reply  remain after the filter")
    for language, count in total.most_common():
        print(f"{language:8}  {count:22}  {speaks[language]:26}  {remain[language]:23}")
    print(f"all       {total.total():22}  {speaks.total():26}  {remain.total():23}")
    false = sum(map(bool, map(find_leak, first)))
    print(f"taken for leaks: {false} of {len(first)} first replies, {wrong} of the others to a complaint")
    assert (total.total(), speaks.total()) == (234, 55)
    assert remain.total() <= 10  # measured: 10, English 8 and Russian 2; 18 before the last words were added
    assert false / len(first) <= 0.01  # measured: 3 of 353
    assert wrong <= 1  # measured: 1 of 179
