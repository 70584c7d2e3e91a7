"""Keeps what one run of the batch backend knows of each request: its result, and whether it is asked, queued or sent.

The state lies in a scratch SQLite file, so memory stays flat however many requests there are. The file is removed
when the run ends.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from drift_data.llm.batch.results import Failure, Malformed, Result, read_results
from drift_data.llm.request import Answer
from drift_data.workspace.sqlite import translate_full_disk

_SCRATCH_FILE: Final = ".run.sqlite"
_CACHE_KIB: Final = 32_000  # memory that SQLite may use
_MAX_REASONS: Final = 50  # distinct reasons of failures that are counted; further ones count as "other"
_MAX_EXAMPLES: Final = 3  # malformed lines that people are shown
_TABLES = """
CREATE TABLE results (
    key TEXT PRIMARY KEY, file INTEGER, failures INTEGER,
    text TEXT, finish_reason TEXT, input_tokens INTEGER, cached_tokens INTEGER, output_tokens INTEGER, usage INTEGER,
    reason TEXT, detail TEXT, error TEXT, tried INTEGER, hopeless INTEGER
) WITHOUT ROWID;
CREATE TABLE asked (key TEXT PRIMARY KEY, marks INTEGER, queued INTEGER) WITHOUT ROWID;
CREATE TABLE under_way (key TEXT PRIMARY KEY, file INTEGER) WITHOUT ROWID;
"""
# Marks of a request, as bits. Asked: a task asks it. Counted: its answer is in `Spending`. Failed: it was given up, and
# that is in `Spending`. Over budget: the budget had no room for it, and that is in `Spending`.
ASKED, COUNTED, FAILED, OVER_BUDGET = 1, 2, 4, 8


class BatchProgress:
    """Results by key, and marks of the requests that tasks ask.

    Args:
        folder: holds the scratch file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _SCRATCH_FILE
        self._path.unlink(missing_ok=True)
        self._database = sqlite3.connect(self._path, isolation_level=None)
        self._database.executescript(
            f"PRAGMA journal_mode = OFF; PRAGMA cache_size = -{_CACHE_KIB}; {_TABLES}"
        )
        self._database.execute("BEGIN")  # never committed: no other process reads the file
        self._files_read = 0
        self.answers = self.failed_tries = 0  # distinct requests with an answer; failed tries of all requests
        self.hopeless_tries = 0  # failed tries after which asking again would give the same
        self.lines = 0  # lines read
        self.repeated = 0  # lines about a request that has an answer, or another line in the same file
        self.malformed = 0  # lines that cannot be used
        self.reasons: Counter[str] = Counter()  # reason of a failure → lines with it
        self.example_details: dict[str, str] = {}  # reason → an example of the server's words
        self.malformed_examples: list[Malformed] = []

    def read(self, paths: Iterable[Path]) -> None:
        """Read result and error files. The first answer to a request counts, whatever failures there are beside it."""
        for path in paths:
            self._files_read += 1
            for result in read_results(path):
                self.lines += 1
                if isinstance(result, Malformed):
                    self.malformed += 1
                    if len(self.malformed_examples) < _MAX_EXAMPLES:
                        self.malformed_examples.append(result)
                else:
                    self._take_in(result)

    def _take_in(self, result: Result) -> None:
        """Count a result, and keep it unless the request has an answer already."""
        outcome = result.outcome
        row = self._database.execute(
            "SELECT file, failures, reason FROM results WHERE key = ?", [result.key]
        ).fetchone()
        file, failures, failed = row or (None, 0, None)
        answered = row is not None and failed is None
        self.repeated += file == self._files_read or (answered and isinstance(outcome, Answer))
        if isinstance(outcome, Failure):
            known = outcome.reason in self.reasons or len(self.reasons) < _MAX_REASONS
            reason = outcome.reason if known else "other"
            self.reasons[reason] += 1
            if outcome.detail:
                self.example_details.setdefault(reason, outcome.detail)
            if outcome.tried and file != self._files_read:
                failures += 1
                self.failed_tries += 1
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
            self.hopeless_tries += outcome.hopeless
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
            [result.key, self._files_read, failures, *values],
        )

    def get_result(self, key: str) -> tuple[Result, int] | None:
        """Return what came back for a request, and how often it has failed; None when nothing came back."""
        row = self._database.execute("SELECT * FROM results WHERE key = ?", [key]).fetchone()
        if row is None:
            return None
        _, _, failures, text, finish, given, cached, output, usage, *failure = row
        reason, detail, error, tried, hopeless = failure
        if reason is not None:
            return Result(key, Failure(reason, detail, error, bool(tried), bool(hopeless))), failures
        return Result(key, Answer(text, finish, given, cached, output), usage=bool(usage)), failures

    def mark(self, key: str, marks: int) -> bool:
        """Set marks on a request; say whether any of them is new."""
        changed = self._write(
            "INSERT INTO asked VALUES (?1, ?2, 0) "
            "ON CONFLICT DO UPDATE SET marks = marks | ?2 WHERE marks & ?2 != ?2",
            [key, marks],
        )
        return changed.rowcount > 0

    def queue(self, key: str, pass_number: int) -> None:
        """Note that a request is queued in a pass; passes are numbered from 1."""
        self._write(
            "INSERT INTO asked VALUES (?, 0, ?) ON CONFLICT DO UPDATE SET queued = excluded.queued",
            [key, pass_number],
        )

    def is_queued(self, key: str, pass_number: int) -> bool:
        """Say whether a request is queued in a pass."""
        query = "SELECT 1 FROM asked WHERE key = ? AND queued = ?"
        return self._database.execute(query, [key, pass_number]).fetchone() is not None

    def put_under_way(self, keys: Iterable[str], file: int) -> None:
        """Note requests that a batch at the API holds.

        Args:
            keys: of the requests.
            file: the number of their request file among those at the API.
        """
        for key in keys:
            self._write("INSERT OR REPLACE INTO under_way VALUES (?, ?)", [key, file])

    def file_under_way(self, key: str) -> int | None:
        """Return the number of the request file at the API that holds a request; None when none of them does."""
        row = self._database.execute("SELECT file FROM under_way WHERE key = ?", [key]).fetchone()
        return None if row is None else int(row[0])

    def clear_under_way(self) -> None:
        """Forget which requests are at the API."""
        self._database.execute("DELETE FROM under_way")

    def count_unknown(self) -> int:
        """Return how many results belong to requests that no task asks."""
        query = "SELECT count(*) FROM results r WHERE NOT EXISTS (SELECT 1 FROM asked a WHERE a.key = r.key)"
        return int(self._database.execute(query).fetchone()[0])

    def _write(self, query: str, values: Sequence[str | int | None]) -> sqlite3.Cursor:
        with translate_full_disk(self._path):
            return self._database.execute(query, values)

    def close(self) -> None:
        """Close and remove the scratch file."""
        self._database.close()
        self._path.unlink(missing_ok=True)
