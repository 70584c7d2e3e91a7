"""What one run of the batch backend knows of each request: results, and what is asked, queued or under way.

A scratch SQLite file, so that memory stays flat however many requests there are; it is gone when the run ends.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from drift_data.llm.batch.results import Failure, Malformed, Result, read_results
from drift_data.llm.request import Answer
from drift_data.workspace.sqlite import full_disk_as_oserror

FILE: Final = ".run.sqlite"
_CACHE: Final = 32_000  # KiB of memory
_REASONS: Final = 50  # distinct ones that are counted
_EXAMPLES: Final = 3  # malformed lines that are told
_TABLES = """
CREATE TABLE results (
    key TEXT PRIMARY KEY, file INTEGER, failures INTEGER,
    text TEXT, finish_reason TEXT, input_tokens INTEGER, cached_tokens INTEGER, output_tokens INTEGER, usage INTEGER,
    reason TEXT, detail TEXT, error TEXT, tried INTEGER, hopeless INTEGER
) WITHOUT ROWID;
CREATE TABLE asked (key TEXT PRIMARY KEY, marks INTEGER, queued INTEGER) WITHOUT ROWID;
CREATE TABLE under_way (key TEXT PRIMARY KEY, file INTEGER) WITHOUT ROWID;
"""
# Marks of a request that was asked: each is set once.
ASKED, COUNTED, FAILED, OVER_BUDGET = 1, 2, 4, 8


class Ledger:
    """Results by key, and marks of the requests that tasks ask.

    Args:
        folder: where the scratch file goes.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._path.unlink(missing_ok=True)
        self._database = sqlite3.connect(self._path, isolation_level=None)
        self._database.executescript(f"PRAGMA journal_mode = OFF; PRAGMA cache_size = -{_CACHE}; {_TABLES}")
        self._database.execute("BEGIN")  # never committed: nobody reads it later
        self._files = 0
        self.answers = self.failures = 0  # distinct requests with an answer; failed tries of all
        self.hopeless = 0  # of the failed tries
        self.lines = self.doubled = self.malformed = 0
        self.reasons: Counter[str] = Counter()  # of failed lines
        self.details: dict[str, str] = {}  # an example by reason
        self.examples: list[Malformed] = []

    def read(self, paths: Iterable[Path]) -> None:
        """Take in result and error files. The first answer to a request stands, and stands above failures."""
        for path in paths:
            self._files += 1
            for result in read_results(path):
                self.lines += 1
                if isinstance(result, Malformed):
                    self.malformed += 1
                    if len(self.examples) < _EXAMPLES:
                        self.examples.append(result)
                else:
                    self._take(result)

    def _take(self, result: Result) -> None:
        outcome = result.outcome
        row = self._database.execute(
            "SELECT file, failures, reason FROM results WHERE key = ?", [result.key]
        ).fetchone()
        file, failures, failed = row or (None, 0, None)
        answered = row is not None and failed is None
        self.doubled += file == self._files or (answered and isinstance(outcome, Answer))
        if isinstance(outcome, Failure):
            known = outcome.reason in self.reasons or len(self.reasons) < _REASONS
            reason = outcome.reason if known else "other"
            self.reasons[reason] += 1
            if outcome.detail:
                self.details.setdefault(reason, outcome.detail)
            if outcome.tried and file != self._files:
                failures += 1
                self.failures += 1
            if answered:
                return
            values: list[str | int | None] = [
                *[None] * 6,
                outcome.reason,
                outcome.detail,
                outcome.error,
                outcome.tried,
                outcome.hopeless,
            ]
            self.hopeless += outcome.hopeless
        else:
            if answered:
                return
            self.answers += 1
            values = [
                outcome.text.encode("utf-8", "replace").decode(),
                outcome.finish_reason,
                outcome.input_tokens,
                outcome.cached_tokens,
                outcome.output_tokens,
                result.usage,
                *[None] * 5,
            ]
        self._write(
            f"INSERT OR REPLACE INTO results VALUES ({', '.join('?' * 14)})",
            [result.key, self._files, failures, *values],
        )

    def result(self, key: str) -> tuple[Result, int] | None:
        """Return what came back for a request, and how often it has failed."""
        row = self._database.execute("SELECT * FROM results WHERE key = ?", [key]).fetchone()
        if row is None:
            return None
        _, _, failures, text, finish, given, cached, output, usage, reason, detail, error, tried, hopeless = (
            row
        )
        if reason is not None:
            return Result(key, Failure(reason, detail, error, bool(tried), bool(hopeless))), failures
        return Result(key, Answer(text, finish, given, cached, output), usage=bool(usage)), failures

    def mark(self, key: str, marks: int) -> bool:
        """Set marks on a request; say whether one of them is new."""
        changed = self._write(
            "INSERT INTO asked VALUES (?1, ?2, 0) "
            "ON CONFLICT DO UPDATE SET marks = marks | ?2 WHERE marks & ?2 != ?2",
            [key, marks],
        )
        return changed.rowcount > 0

    def queue(self, key: str, at: int) -> None:
        """Note that a request is queued in a pass, counted from 1."""
        self._write(
            "INSERT INTO asked VALUES (?, 0, ?) ON CONFLICT DO UPDATE SET queued = excluded.queued", [key, at]
        )

    def is_queued(self, key: str, at: int) -> bool:
        """Say whether a request is queued in a pass."""
        query = "SELECT 1 FROM asked WHERE key = ? AND queued = ?"
        return self._database.execute(query, [key, at]).fetchone() is not None

    def put_under_way(self, keys: Iterable[str], file: int) -> None:
        """Note requests that a batch at the API holds."""
        for key in keys:
            self._write("INSERT OR REPLACE INTO under_way VALUES (?, ?)", [key, file])

    def under_way(self, key: str) -> int | None:
        """Return the number of the file by which a request is at the API."""
        row = self._database.execute("SELECT file FROM under_way WHERE key = ?", [key]).fetchone()
        return None if row is None else int(row[0])

    def clear_under_way(self) -> None:
        """Forget what was under way."""
        self._database.execute("DELETE FROM under_way")

    def unknown(self) -> int:
        """Return how many results belong to requests that no task has asked."""
        query = "SELECT count(*) FROM results r WHERE NOT EXISTS (SELECT 1 FROM asked a WHERE a.key = r.key)"
        return int(self._database.execute(query).fetchone()[0])

    def _write(self, query: str, values: Sequence[str | int | None]) -> sqlite3.Cursor:
        with full_disk_as_oserror(self._path):
            return self._database.execute(query, values)

    def close(self) -> None:
        """Remove the scratch file."""
        self._database.close()
        self._path.unlink(missing_ok=True)
