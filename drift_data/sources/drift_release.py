"""The release layout of DRIFT's own data: JSON Lines of DSAT examples, SAT examples and seed pairs.

The keys tell them apart: `rejected` alone is `dsat`, `chosen` alone `sat`, both `seed`. The release's rows
have no id, so it is made from the prompt; the complaint is under `user_preference`. Seed files named test
are the test split. Our own export adds id, turn, split, items and reason, which are taken over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from drift_data.schema import TableName
from drift_data.sources.fields import messages, text
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import check_keys, first_object, object_rows
from drift_data.sources.rows import Example, Piece, SetAside, examples_from_rows, excerpt

_REPLIES: Final[Mapping[str, tuple[str, ...]]] = {  # table → its columns of replies
    TableName.DSAT: ("rejected",),
    TableName.SAT: ("chosen",),
    TableName.SEED: ("chosen", "rejected"),
}
TABLES = tuple(_REPLIES)


def tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return all three tables: one whose file is absent comes out empty."""
    for file in files:
        _table(file)
    return TABLES


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the examples of all files."""
    for file in files:
        table = _table(file)
        yield from examples_from_rows(table, file.name, _rows(file, table, tally))


def _table(file: RawFile) -> str:
    row = first_object(file) or {"prompt": [], "rejected": []}
    check_keys(file, row, [["prompt"], ["chosen", "rejected"]], "the DRIFT release")
    if "chosen" in row and "rejected" in row:
        return TableName.SEED
    return TableName.SAT if "chosen" in row else TableName.DSAT


def _rows(file: RawFile, table: str, tally: Tally) -> Iterator[Example | SetAside]:
    name = PurePosixPath(file.name).name
    split = {"train.jsonl": "train", "test.jsonl": "test"}.get(name) if table == TableName.SEED else None
    replies = _REPLIES[table]
    for row in object_rows(file, tally, table):
        if isinstance(row, SetAside):
            yield row
            continue
        position, value = row
        found: dict[str, Any] = {}
        problem = None
        for key in ("prompt", *replies):
            found[key], wrong = messages(value.get(key))
            problem = problem or wrong
        if problem is not None:
            yield Example(position, None, problem, excerpt(value))
            continue
        items = value.get("items")
        found |= {
            "conversation_id": text(value.get("conversation_id")),
            "turn": _turn(value.get("turn"), len(found["prompt"]) + 1),
            "feedback": _feedback(value) or "",
        }
        if table != TableName.SEED:
            found["items"] = (
                [item for item in items if isinstance(item, str)] if isinstance(items, list) else None
            )
            found["reason"] = text(value.get("reason"))
        own = value["split"] if value.get("split") in ("train", "test") else split
        yield Example(position, found | ({"split": own} if own else {}))


def _turn(value: Any, otherwise: int) -> int:
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31
    return value if usable else otherwise


def _feedback(row: Mapping[str, Any]) -> str | None:
    value = row.get("user_preference", row.get("feedback"))
    return text(value.get("content")) if isinstance(value, Mapping) else text(value)
