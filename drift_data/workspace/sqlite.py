"""Opens and writes SQLite files that hold a user's work: the answers of language models, the decisions of reviewers.

Each file carries the version of its layout in `user_version`. The module makes a new file's tables once, refuses a
file of another version, and says in plain words why a file cannot be used. A full disk raises `OSError(ENOSPC)`, as
it does for any other file.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from drift_data.workspace.errors import UserError


def open_versioned(
    path: Path,
    tables: str,
    version: int,
    what: str,
    *,
    synchronous: Literal["NORMAL", "FULL"],
    wait_seconds: float = 5.0,
    check_same_thread: bool = True,
) -> sqlite3.Connection:
    """Open a file and make its tables when it is new. Two processes may do so at once.

    Args:
        path: the file; it and its folder are made when they are not there.
        tables: CREATE statements, each ending in a semicolon and a line break.
        version: version of the layout; a file of another version is refused.
        what: what the file is, for messages, e.g. "store of requests".
        synchronous: FULL: what was committed survives a power cut. NORMAL: it survives the end of the process; after
            a power cut the last seconds may be missing.
        wait_seconds: how long to wait for another process that is writing.
        check_same_thread: False: several threads use the connection, and the caller keeps them apart.

    Returns:
        A connection that begins no transaction by itself; write to it inside `transaction`.

    Raises:
        UserError: the file holds something else, has another version, cannot be opened, or another process holds it.
        OSError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    database = None
    try:
        database = sqlite3.connect(
            path, isolation_level=None, timeout=wait_seconds, check_same_thread=check_same_thread
        )
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {synchronous}")
        found = _read_version(database) or _make_tables(database, path, tables, version)
        if found != version:
            raise UserError(
                f"{path} was written by another version of the tool (layout {found}, this one reads {version}). "
                "Use that version, or move the file away: a new one will be made."
            )
    except BaseException as error:
        if database is not None:
            database.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise _explain_unusable(error, path, what) from error
        raise
    return database


@contextmanager
def transaction(database: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Hold the file for writing: everything in the block is written, or nothing is.

    Raises:
        OSError: the disk is full; nothing of the block was kept.
        sqlite3.OperationalError: another process was writing for too long, or the file cannot be written.
    """
    with translate_full_disk(path), database:
        database.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def translate_full_disk(path: Path) -> Iterator[None]:
    """Raise SQLite's "database or disk is full" as the `OSError` that any other file would raise."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:  # the low byte, without the details
            raise _make_full_disk_error(path) from error
        raise


def _read_version(database: sqlite3.Connection) -> int:
    """Return the version of a file's layout; 0 for a new file."""
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _make_tables(database: sqlite3.Connection, path: Path, tables: str, version: int) -> int:
    """Make the tables of a new file, unless another process has just done so; return the file's version."""
    with transaction(database, path):
        found = _read_version(database)
        if found == 0:
            for statement in tables.split(";\n"):  # `executescript` would end the transaction
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {version}")
    return found or version


def _make_full_disk_error(path: Path) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _explain_unusable(error: sqlite3.DatabaseError, path: Path, what: str) -> Exception:
    """Return the exception that tells a user why a file cannot be opened."""
    code = error.sqlite_errorcode & 0xFF  # the low byte, without the details
    if code == sqlite3.SQLITE_FULL:
        return _make_full_disk_error(path)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UserError(f"{path} is held by another process. Wait for it to end, and run again.")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
        return UserError(
            f"{path} is not a {what}: {error}. Move it away if it is another file; a new one will be made."
        )
    return UserError(
        f"{path} cannot be opened: {error}. Is it a file that you may write, on a disk that works?"
    )
