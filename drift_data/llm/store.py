"""Keeps all requests to language models and their answers in one SQLite file.

An answer is there for good once `put` returns: a process killed right after loses nothing. The system prompts and
schemas, which thousands of requests share, are kept once. Any SQLite tool can query the file, and so can the
workspace's `requests` view in DuckDB.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from drift_data.llm.request import Answer, Request
from drift_data.workspace.sqlite import open_versioned, transaction

STORE_FILE: Final = "judge.sqlite"
_LAYOUT_VERSION = 1  # version of the tables; a file with another version is refused
_MAX_REMEMBERED_TEXTS: Final = 1_000  # system prompts and schemas whose row ids are held in memory
_TABLES = """
CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE answers (
    key TEXT PRIMARY KEY,            -- sha256 of what determines the answer
    answer TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    price REAL NOT NULL,             -- in the currency of the recipe's prices
    backend TEXT NOT NULL,           -- openai, vllm, batch
    seconds REAL,                    -- from sending to answer, the last attempt only
    answered_at TEXT NOT NULL,       -- UTC, ISO 8601
    purpose TEXT NOT NULL,           -- score, extract, fold
    model TEXT NOT NULL,
    sampling TEXT NOT NULL,          -- JSON
    system INTEGER NOT NULL REFERENCES texts,
    schema INTEGER REFERENCES texts,
    user TEXT NOT NULL               -- long, so it comes last: what is read for an answer lies before it
);
CREATE VIEW requests AS
    SELECT a.key, a.purpose, a.model, a.sampling, s.text AS system, a.user, j.text AS schema, a.answer,
           a.finish_reason, a.input_tokens, a.cached_tokens, a.output_tokens, a.price, a.backend, a.seconds,
           a.answered_at
    FROM answers a JOIN texts s ON s.id = a.system LEFT JOIN texts j ON j.id = a.schema;
"""


class Store:
    """The stored requests and their answers, by the requests' keys.

    Args:
        path: the SQLite file; made if it does not exist.

    Raises:
        UserError: the file is not a store of requests, cannot be opened, or another process holds it.
        OSError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # NORMAL: the operating system has the write-ahead log when `put` returns, so a killed process loses nothing.
        # After a power cut the answers of the last seconds may be missing; they are asked for again.
        self._database = open_versioned(
            path, _TABLES, _LAYOUT_VERSION, "store of requests", synchronous="NORMAL"
        )
        self._text_numbers: dict[str, int] = {}

    def get(self, key: str) -> Answer | None:
        """Return the stored answer to a request; None when there is none."""
        row = self._database.execute(
            "SELECT answer, finish_reason, input_tokens, cached_tokens, output_tokens, price FROM answers "
            "WHERE key = ?",
            [key],
        ).fetchone()
        return None if row is None else Answer(*row)

    def has(self, key: str) -> bool:
        """Say whether a request has an answer."""
        return self._database.execute("SELECT 1 FROM answers WHERE key = ?", [key]).fetchone() is not None

    def put(self, request: Request, answer: Answer, *, backend: str, seconds: float | None = None) -> None:
        """Keep an answer. If the request has an answer already, that one stays.

        Args:
            request: what was asked.
            answer: what came back.
            backend: "openai", "vllm" or "batch".
            seconds: from sending to the answer, the last attempt only; None: unknown.

        Raises:
            ValueError: the answer is an error; errors are not kept.
            OSError: the disk is full; what was kept before can be read.
        """
        if answer.error is not None:
            raise ValueError(f"an answer with an error cannot be stored: {answer.error}")
        try:
            self._insert(request, answer, backend, seconds)
        except (sqlite3.Error, OSError):
            self._text_numbers.clear()  # what was added to the texts has been rolled back
            raise

    def _insert(self, request: Request, answer: Answer, backend: str, seconds: float | None) -> None:
        sampling = request.sampling
        with transaction(self._database, self.path):
            system = self._number_text(request.system)
            schema = None if request.schema is None else self._number_text(request.schema.text)
            self._database.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    request.key,
                    _to_storable(answer.text),
                    answer.finish_reason,
                    answer.input_tokens,
                    answer.cached_tokens,
                    answer.output_tokens,
                    answer.price,
                    backend,
                    seconds,
                    datetime.now(UTC).isoformat(timespec="milliseconds"),
                    request.purpose,
                    sampling.model,
                    sampling.text,
                    system,
                    schema,
                    _to_storable(request.user),
                ],
            )

    def count(self) -> int:
        """Return the number of stored answers."""
        return int(self._database.execute("SELECT count(*) FROM answers").fetchone()[0])

    def _number_text(self, text: str) -> int:
        """Return the row id of a system prompt or schema; the text is stored at its first use."""
        text = _to_storable(text)
        if text not in self._text_numbers:
            self._database.execute("INSERT OR IGNORE INTO texts (text) VALUES (?)", [text])
            row = self._database.execute("SELECT id FROM texts WHERE text = ?", [text]).fetchone()
            if len(self._text_numbers) >= _MAX_REMEMBERED_TEXTS:
                self._text_numbers.clear()
            self._text_numbers[text] = int(row[0])
        return self._text_numbers[text]

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _to_storable(text: str) -> str:
    """Return text that SQLite can hold: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
