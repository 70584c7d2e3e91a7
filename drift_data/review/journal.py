"""The journal of all decisions of all reviewers: one SQLite file. It knows what was decided, not what it is for.

A decision is on the disk once `add` returns, whatever is killed or loses power after. Nothing is overwritten: a
second decision on a turn comes after the first, and one that was taken back stays with the time of that.
"""

from __future__ import annotations

import errno
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from drift_data.workspace.sqlite import open_versioned, transaction

FILE: Final = "review.sqlite"
_VERSION = 1
_TABLE = """
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reviewer TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    label TEXT NOT NULL,
    items TEXT NOT NULL,             -- JSON: names
    refusal INTEGER,                 -- the judged reply is one
    correct_refusal INTEGER,         -- and the request deserved it
    labels TEXT NOT NULL,            -- table under review
    judge TEXT NOT NULL,
    judge_label TEXT NOT NULL,       -- when it was decided
    selection TEXT NOT NULL,         -- JSON: order and filters
    random INTEGER NOT NULL,         -- shown as part of a random sample of all turns
    blind INTEGER NOT NULL,          -- decided before the judge's label was to be seen
    text TEXT NOT NULL,              -- digest of the judged reply and the message, as they were read
    conversations TEXT NOT NULL,     -- digest of the table in which that text was last found
    decided_at TEXT NOT NULL,        -- UTC, ISO 8601
    undone_at TEXT
);
CREATE INDEX by_turn ON decisions (reviewer, conversation_id, turn);
"""
_COLUMNS: Final = (
    "reviewer, conversation_id, turn, label, items, refusal, correct_refusal, labels, judge, judge_label, selection, "
    "random, blind, text, conversations"
)


@dataclass(frozen=True)
class Decision:
    """What a reviewer decided about one turn, and what the page had shown."""

    reviewer: str
    conversation_id: str
    turn: int
    label: str
    items: tuple[str, ...]
    refusal: bool | None
    correct_refusal: bool | None
    labels: str
    judge: str
    judge_label: str
    selection: dict[str, str]
    random: bool
    blind: bool
    text: str
    conversations: str
    id: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """Return the turn's key."""
        return self.conversation_id, self.turn


@dataclass(frozen=True)
class Reviewed:
    """What counts of all decisions on one turn."""

    last: Decision
    unbiased: str  # the last label given blind; when none was, the last
    random: bool  # one of the decisions was part of a random sample
    blind: bool  # one of them was blind

    @property
    def key(self) -> tuple[str, int]:
        """Return the turn's key."""
        return self.last.key


class Journal:
    """Decisions, by reviewer and turn.

    Args:
        path: of the SQLite file; made when it is not there.

    Raises:
        UserError: the file is not such a journal, cannot be written, or another process holds it.
        OSError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = open_versioned(
            path,
            _TABLE,
            _VERSION,
            "journal of reviews",
            synchronous="FULL",
            wait_seconds=30,
            check_same_thread=False,
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the file for writing: what is done inside is done as a whole or not at all."""
        try:
            with transaction(self._database, self.path):
                yield
        except sqlite3.OperationalError as error:
            raise OSError(errno.EIO, str(error), str(self.path)) from error

    def close(self) -> None:
        """Close the file; what was added is in it."""
        self._database.close()

    def add(self, decision: Decision) -> Decision:
        """Keep a decision, and return it with its number.

        Raises:
            OSError: it cannot be written, as when the disk is full; nothing was kept.
        """
        values = [
            decision.reviewer,
            decision.conversation_id,
            decision.turn,
            decision.label,
            json.dumps(decision.items, ensure_ascii=False),
            decision.refusal,
            decision.correct_refusal,
            decision.labels,
            decision.judge,
            decision.judge_label,
            json.dumps(decision.selection, ensure_ascii=False, sort_keys=True),
            decision.random,
            decision.blind,
            decision.text,
            decision.conversations,
            _now(),
        ]
        marks = ", ".join("?" * len(values))
        insert = f"INSERT INTO decisions ({_COLUMNS}, decided_at) VALUES ({marks})"
        with self._writing():
            cursor = self._database.execute(insert, values)
        assert cursor.lastrowid is not None
        return replace(decision, id=cursor.lastrowid)

    def undo(self, reviewer: str, number: int) -> Decision | None:
        """Take a decision back and return it; None when it is not the last one on its turn any more.

        Raises:
            OSError: as `add`.
        """
        with self._writing():
            found = self._read(reviewer, "AND id = ?", [number])
            if not found:
                return None
            newer = self._database.execute(
                "SELECT 1 FROM decisions WHERE reviewer = ? AND conversation_id = ? AND turn = ? AND id > ? "
                "AND undone_at IS NULL",
                [reviewer, *found[0].key, number],
            ).fetchone()
            if newer is not None:
                return None
            self._database.execute("UPDATE decisions SET undone_at = ? WHERE id = ?", [_now(), number])
            return found[0]

    def reviewed(self, reviewer: str) -> list[Reviewed]:
        """Return what counts for every turn that a person has reviewed, in the order of their last decisions."""
        turns: dict[tuple[str, int], Reviewed] = {}
        for decision in self._read(reviewer):
            before = turns.pop(decision.key, None)
            turns[decision.key] = after(before, decision)
        return list(turns.values())

    def last(self, reviewer: str) -> Decision | None:
        """Return the decision that can be taken back next."""
        found = self._read(reviewer, "ORDER BY id DESC LIMIT 1")
        return found[0] if found else None

    def revision(self, reviewer: str) -> list[int]:
        """Return how many decisions there are and how many of them were taken back: it changes with each change."""
        row = self._database.execute(
            "SELECT count(*), count(undone_at) FROM decisions WHERE reviewer = ?", [reviewer]
        ).fetchone()
        return [int(value) for value in row]

    def found_again(self, reviewer: str, keys: Iterable[tuple[str, int]], conversations: str) -> None:
        """Remember that the texts of some turns are in this table of conversations, as they were read."""
        with self._writing():
            self._database.executemany(
                "UPDATE decisions SET conversations = ? WHERE reviewer = ? AND conversation_id = ? AND turn = ?",
                [(conversations, reviewer, *key) for key in keys],
            )

    def _read(self, reviewer: str, more: str = "ORDER BY id", values: Iterable[Any] = ()) -> list[Decision]:
        rows = self._database.execute(
            f"SELECT {_COLUMNS}, id FROM decisions WHERE reviewer = ? AND undone_at IS NULL {more}",
            [reviewer, *values],
        )
        return [_decision(row) for row in rows]


def after(before: Reviewed | None, decision: Decision) -> Reviewed:
    """Return what counts of a turn once it was decided again."""
    was_blind = before is not None and before.blind
    kept = before.unbiased if before is not None and was_blind and not decision.blind else decision.label
    random = decision.random or (before is not None and before.random)
    return Reviewed(decision, kept, random, decision.blind or was_blind)


def _decision(row: tuple[Any, ...]) -> Decision:
    values = dict(zip(_COLUMNS.split(", "), row[:-1], strict=True))
    values["items"] = tuple(json.loads(values["items"]))
    values["selection"] = json.loads(values["selection"])
    for name in ("refusal", "correct_refusal"):
        values[name] = None if values[name] is None else bool(values[name])
    values |= {"random": bool(values["random"]), "blind": bool(values["blind"]), "id": row[-1]}
    return Decision(**values)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
