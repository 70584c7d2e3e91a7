"""Reads data in the layout of the DRIFT release: JSON Lines of DSAT examples, SAT examples and seed pairs.

A file's keys say what it holds: only `rejected` means `dsat`, only `chosen` means `sat`, both mean `seed`. The release's
rows have no id, so `convert` makes one from the prompt; the complaint is under `user_preference`. The seed file
test.jsonl is the test split. Our own export adds id, turn, split, items and reason, which are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from drift_data.schema import TableName
from drift_data.sources.fields import parse_messages, parse_text
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import check_keys, iter_objects, read_first_object
from drift_data.sources.rows import Piece, ReadyExample, SetAside, cut_excerpt, gather_examples

_TABLE_REPLIES: Final[Mapping[str, tuple[str, ...]]] = {  # table → its columns of replies
    TableName.DSAT: ("rejected",),
    TableName.SAT: ("chosen",),
    TableName.SEED: ("chosen", "rejected"),
}
RELEASE_TABLES = tuple(_TABLE_REPLIES)


def list_tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the names of all three tables; a table without a file becomes empty."""
    for file in files:
        _find_table(file)
    return RELEASE_TABLES


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the examples of all files."""
    for file in files:
        table = _find_table(file)
        yield from gather_examples(table, file.name, _iter_examples(file, table, tally))


def _find_table(file: RawFile) -> str:
    """Return the table of a file, by the keys of its first row."""
    row = read_first_object(file) or {"prompt": [], "rejected": []}
    check_keys(file, row, [["prompt"], ["chosen", "rejected"]], "the DRIFT release")
    if "chosen" in row and "rejected" in row:
        return TableName.SEED
    return TableName.SAT if "chosen" in row else TableName.DSAT


def _iter_examples(file: RawFile, table: str, tally: Tally) -> Iterator[ReadyExample | SetAside]:
    """Yield every row of a file as an example of the table."""
    name = PurePosixPath(file.name).name
    split = {"train.jsonl": "train", "test.jsonl": "test"}.get(name) if table == TableName.SEED else None
    replies = _TABLE_REPLIES[table]
    for row in iter_objects(file, tally, table):
        if isinstance(row, SetAside):
            yield row
            continue
        position, value = row
        found: dict[str, Any] = {}
        problem = None
        for key in ("prompt", *replies):
            found[key], wrong = parse_messages(value.get(key))
            problem = problem or wrong
        if problem is not None:
            yield ReadyExample(position, None, problem, cut_excerpt(value))
            continue
        items = value.get("items")
        found |= {
            "conversation_id": parse_text(value.get("conversation_id")),
            "turn": _choose_turn(value.get("turn"), len(found["prompt"]) + 1),
            "feedback": _find_feedback(value) or "",
        }
        if table != TableName.SEED:
            found["items"] = (
                [item for item in items if isinstance(item, str)] if isinstance(items, list) else None
            )
            found["reason"] = parse_text(value.get("reason"))
        own = value["split"] if value.get("split") in ("train", "test") else split
        yield ReadyExample(position, found | ({"split": own} if own else {}))


def _choose_turn(value: Any, otherwise: int) -> int:
    """Return a row's own turn if it is a valid one, else `otherwise`."""
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if usable else otherwise


def _find_feedback(row: Mapping[str, Any]) -> str | None:
    """Return the user's feedback, which the release keeps as a message and our export of seed pairs as text."""
    value = row.get("user_preference", row.get("feedback"))
    return parse_text(value.get("content")) if isinstance(value, Mapping) else parse_text(value)
