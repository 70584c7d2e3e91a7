"""Keeps all decisions of all reviewers in one SQLite file, the journal.

A decision is on the disk once `Journal.add` returns, even if the process is killed or the power fails right after. The
journal overwrites no decision: a second decision on a turn is added after the first, and a decision that is taken back
stays in the file, with the time at which it was taken back.
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

REVIEW_FILE: Final = "review.sqlite"  # name of the journal in the workspace
_LAYOUT_VERSION = 1  # version of the tables below
_TABLES = """
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    reviewer TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    turn INTEGER NOT NULL,
    label TEXT NOT NULL,
    items TEXT NOT NULL,             -- JSON: names of the ticked items
    refusal INTEGER,                 -- whether the judged reply is a refusal
    correct_refusal INTEGER,         -- whether the request deserved the refusal
    labels TEXT NOT NULL,            -- label table under review
    judge TEXT NOT NULL,             -- who made that table
    judge_label TEXT NOT NULL,       -- the judge's label at the time of the decision
    selection TEXT NOT NULL,         -- JSON: order and filters
    random INTEGER NOT NULL,         -- whether the turn was shown as part of a random sample of all turns
    blind INTEGER NOT NULL,          -- whether the judge's label was hidden
    text TEXT NOT NULL,              -- hash of the judged reply and the message, as the reviewer read them
    conversations TEXT NOT NULL,     -- digest of the table in which that text was last found
    decided_at TEXT NOT NULL,        -- UTC, ISO 8601
    undone_at TEXT                   -- UTC, ISO 8601; NULL: the decision counts
);
CREATE INDEX by_turn ON decisions (reviewer, conversation_id, turn);
"""
_DECISION_COLUMNS: Final = (
    "reviewer, conversation_id, turn, label, items, refusal, correct_refusal, labels, judge, judge_label, selection, "
    "random, blind, text, conversations"
)


@dataclass(frozen=True)
class Decision:
    """What a reviewer decided about one turn, and what the page had shown; fields as in the table above."""

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
    id: int = 0  # number in the journal; 0: not added yet

    @property
    def key(self) -> tuple[str, int]:
        """Return the turn's key."""
        return self.conversation_id, self.turn


@dataclass(frozen=True)
class ReviewedTurn:
    """The outcome of all decisions that a reviewer made on one turn and did not take back."""

    last: Decision  # the last decision
    unbiased: str  # label of the last blind decision; label of the last decision if none was blind
    random: bool  # whether one of the decisions was part of a random sample
    blind: bool  # whether one of the decisions was blind

    @property
    def key(self) -> tuple[str, int]:
        """Return the turn's key."""
        return self.last.key


class Journal:
    """The decisions of all reviewers.

    Args:
        path: SQLite file; made when it does not exist.

    Raises:
        UserError: the file is not a journal of reviews, cannot be written, or is held by another process.
        OSError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = open_versioned(
            path,
            _TABLES,
            _LAYOUT_VERSION,
            "journal of reviews",
            synchronous="FULL",
            wait_seconds=30,
            check_same_thread=False,
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the file for writing; the changes of the block are kept as a whole or not at all."""
        try:
            with transaction(self._database, self.path):
                yield
        except sqlite3.OperationalError as error:
            raise OSError(errno.EIO, str(error), str(self.path)) from error

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def add(self, decision: Decision) -> Decision:
        """Keep a decision, and return it with its number.

        Raises:
            OSError: the file cannot be written, as when the disk is full; nothing was kept.
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
            _format_now(),
        ]
        marks = ", ".join("?" * len(values))
        insert = f"INSERT INTO decisions ({_DECISION_COLUMNS}, decided_at) VALUES ({marks})"
        with self._writing():
            cursor = self._database.execute(insert, values)
        assert cursor.lastrowid is not None
        return replace(decision, id=cursor.lastrowid)

    def undo(self, reviewer: str, number: int) -> Decision | None:
        """Take a decision back, and return it; None if it was taken back already, or its turn has a newer decision.

        Args:
            reviewer: who decided.
            number: number of the decision.

        Raises:
            OSError: the file cannot be written, as when the disk is full; nothing was changed.
        """
        with self._writing():
            found = self._select(reviewer, "AND id = ?", [number])
            if not found:
                return None
            newer = self._database.execute(
                "SELECT 1 FROM decisions WHERE reviewer = ? AND conversation_id = ? AND turn = ? AND id > ? "
                "AND undone_at IS NULL",
                [reviewer, *found[0].key, number],
            ).fetchone()
            if newer is not None:
                return None
            self._database.execute("UPDATE decisions SET undone_at = ? WHERE id = ?", [_format_now(), number])
            return found[0]

    def read_reviewed(self, reviewer: str) -> list[ReviewedTurn]:
        """Return the outcome of every turn that a reviewer has reviewed, in the order of the last decisions."""
        turns: dict[tuple[str, int], ReviewedTurn] = {}
        for decision in self._select(reviewer):
            before = turns.pop(decision.key, None)
            turns[decision.key] = combine_decisions(before, decision)
        return list(turns.values())

    def find_last(self, reviewer: str) -> Decision | None:
        """Return the reviewer's last decision, which is the next one to take back; None without decisions."""
        found = self._select(reviewer, "ORDER BY id DESC LIMIT 1")
        return found[0] if found else None

    def read_revision(self, reviewer: str) -> list[int]:
        """Return how many decisions a reviewer has made, and how many of them were taken back.

        Each change of the reviewer's decisions changes these two numbers.
        """
        row = self._database.execute(
            "SELECT count(*), count(undone_at) FROM decisions WHERE reviewer = ?", [reviewer]
        ).fetchone()
        return [int(value) for value in row]

    def record_unchanged(self, reviewer: str, keys: Iterable[tuple[str, int]], conversations: str) -> None:
        """Record that a table of conversations has the texts of some turns as the reviewer read them.

        Args:
            reviewer: who read the texts.
            keys: keys of the turns.
            conversations: digest of the table.
        """
        with self._writing():
            self._database.executemany(
                "UPDATE decisions SET conversations = ? WHERE reviewer = ? AND conversation_id = ? AND turn = ?",
                [(conversations, reviewer, *key) for key in keys],
            )

    def _select(self, reviewer: str, more: str = "ORDER BY id", values: Iterable[Any] = ()) -> list[Decision]:
        """Return the decisions of a reviewer that were not taken back; `more` is SQL that follows the condition."""
        rows = self._database.execute(
            f"SELECT {_DECISION_COLUMNS}, id FROM decisions WHERE reviewer = ? AND undone_at IS NULL {more}",
            [reviewer, *values],
        )
        return [_make_decision(row) for row in rows]


def combine_decisions(before: ReviewedTurn | None, decision: Decision) -> ReviewedTurn:
    """Return the outcome of a turn after one more decision.

    Args:
        before: the outcome so far; None: the decision is the first on its turn.
        decision: the new decision.
    """
    was_blind = before is not None and before.blind
    kept = before.unbiased if before is not None and was_blind and not decision.blind else decision.label
    random = decision.random or (before is not None and before.random)
    return ReviewedTurn(decision, kept, random, decision.blind or was_blind)


def _make_decision(row: tuple[Any, ...]) -> Decision:
    """Return the decision of a row with the columns of `_DECISION_COLUMNS` and the id."""
    values = dict(zip(_DECISION_COLUMNS.split(", "), row[:-1], strict=True))
    values["items"] = tuple(json.loads(values["items"]))
    values["selection"] = json.loads(values["selection"])
    for name in ("refusal", "correct_refusal"):
        values[name] = None if values[name] is None else bool(values[name])
    values |= {"random": bool(values["random"]), "blind": bool(values["blind"]), "id": row[-1]}
    return Decision(**values)


def _format_now() -> str:
    """Return the present time in UTC, as ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
