"""Streams raw JSON files row by row: JSON Lines, or one array larger than memory. Knows no layout.

A row that is no JSON object, no UTF-8 or a line longer than 64 MB is set aside. A file that breaks off gives
the rows before the break and one row set aside for the break; a file with nothing readable stops the run.
"""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import ijson

from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.rows import SetAside, excerpt
from drift_data.workspace import UserError

MAX_LINE = 64 << 20
_CHUNK = 1 << 16
_HOPELESS = 1_000  # rows at the beginning of a file, all of them bad
_BAD_BYTES = "\uffff"  # stands in an array's text for bytes that are no UTF-8; no character of any text
_BREAKS = (EOFError, zlib.error)  # a .gz that is cut off or damaged

NumberedRow = tuple[int, dict[str, Any]]


def json_rows(file: RawFile, tally: Tally, table: str) -> Iterator[NumberedRow | SetAside]:
    """Yield (position, object) for every row of a file; blank lines are no rows.

    Args:
        file: JSON Lines, or one JSON array of objects; told apart by the first character.
        tally: counts the lines or elements read, good or bad, under `table`.
        table: where the rows would go.

    Raises:
        UserError: the file is neither, or nothing in it can be read.
    """
    with file.open() as stream:
        try:
            beginning = stream.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
        except (*_BREAKS, OSError) as error:
            raise UserError(
                f"{file.name} cannot be unpacked ({error}). Get it again, or leave it out."
            ) from error
        stream.seek(0)
        if beginning == b"":
            return
        if beginning not in (b"[", b"{"):
            raise UserError(
                f"{file.name} is no JSON: it begins with {beginning!r}. "
                "A JSON array, or one object a line, is expected."
            )
        rows = (_array if beginning == b"[" else _lines)(file, stream, tally, table)
        yield from _if_any_is_good(file, rows)


def _if_any_is_good(
    file: RawFile, rows: Iterator[NumberedRow | SetAside]
) -> Iterator[NumberedRow | SetAside]:
    """Pass rows on once one of them is good; raise when the file ends, or goes on for long, without one."""
    broken: list[SetAside] = []
    for row in rows:
        if isinstance(row, SetAside) and len(broken) < _HOPELESS:
            broken.append(row)
            continue
        if isinstance(row, SetAside):
            break
        yield from broken
        yield row
        yield from rows
        return
    if broken:
        first = broken[0]
        raise UserError(
            f"{file.name} holds no readable row. {first.location}: {first.reason} ({first.excerpt}). "
            "Check that it is the right file, and whole."
        )


def _lines(file: RawFile, stream: BinaryIO, tally: Tally, table: str) -> Iterator[NumberedRow | SetAside]:
    number = -1
    while True:
        number += 1
        where = f"{file.name}:{number}"
        try:
            line, length = _bounded_line(stream)
        except _BREAKS as error:
            tally.rows[table] += 1
            yield SetAside(table, where, "broken_off", excerpt(error))
            return
        if not line:
            return
        tally.read_bytes(file, length)
        if length == len(line) and not line.strip():
            continue
        tally.rows[table] += 1
        reason = "line_too_long" if length > len(line) else None
        if reason is None:
            try:
                value = json.loads(line.decode("utf-8-sig" if number == 0 else "utf-8"))
                if isinstance(value, dict):
                    yield number, value
                    continue
                reason = "not_an_object"
            except UnicodeDecodeError:
                reason = "invalid_utf8"
            except (ValueError, RecursionError):
                reason = "broken_json"
        yield SetAside(table, where, reason, excerpt(line[:1_000]))


def _bounded_line(stream: BinaryIO) -> tuple[bytes, int]:
    """Return the next line, cut at MAX_LINE, and its whole length."""
    line = stream.readline(MAX_LINE)
    length, piece = len(line), line
    while len(piece) == MAX_LINE and not piece.endswith(b"\n"):
        piece = stream.readline(MAX_LINE)
        length += len(piece)
    return line, length


def _array(file: RawFile, stream: BinaryIO, tally: Tally, table: str) -> Iterator[NumberedRow | SetAside]:
    text = _Utf8(stream)
    rows = ijson.items(text, "item", use_float=True, buf_size=_CHUNK)
    number, position = -1, 0
    while True:
        number += 1
        where = f"{file.name}:{number}"
        try:
            value = next(rows)
        except StopIteration:
            return
        except (ijson.JSONError, *_BREAKS) as error:
            tally.rows[table] += 1
            message = " ".join(str(error).split())
            yield SetAside(table, where, "broken_off", excerpt(f"before byte {text.position}: {message}"))
            return
        tally.rows[table] += 1
        tally.read_bytes(file, text.position - position)
        position = text.position
        if text.had_bad_bytes and _BAD_BYTES in json.dumps(value, ensure_ascii=False):
            yield SetAside(table, where, "invalid_utf8", excerpt(value))
        elif isinstance(value, dict):
            yield number, value
        else:
            yield SetAside(table, where, "not_an_object", excerpt(value))


class _Utf8:
    """A stream of whole UTF-8 for a parser that would give up at the first bad byte; knows how far it is."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("drift_bad_bytes")
        self.position = 0
        self.had_bad_bytes = False

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, bad ones replaced; empty only at the end."""
        while True:
            data = self._stream.read(size)
            self.position += len(data)
            text = self._decoder.decode(data, final=not data)
            self.had_bad_bytes = self.had_bad_bytes or _BAD_BYTES in text
            if text or not data:
                return text.encode()


def _replace_bad_bytes(error: UnicodeError) -> tuple[str, int]:
    if isinstance(error, UnicodeDecodeError):
        return _BAD_BYTES, error.end
    raise error


codecs.register_error("drift_bad_bytes", _replace_bad_bytes)
