"""Streams raw JSON files row by row: JSON Lines, or one array, which may be larger than memory.

A row is set aside if it is not a JSON object, not UTF-8, or a line longer than 64 MB. A file that breaks off gives the
rows before the break, and one row is set aside for the break. A file without a readable row stops the run.
"""

from __future__ import annotations

import codecs
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import ijson

from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.rows import SetAside, cut_excerpt
from drift_data.workspace import UserError

MAX_LINE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 16
_MAX_LEADING_BAD_ROWS = 1_000  # a file that begins with more bad rows than this counts as unreadable
_BAD_BYTES = "\uffff"  # replaces bytes of an array that are not UTF-8; Unicode reserves it, so no text has it
_UNPACKING_ERRORS = (EOFError, zlib.error)  # raised for a .gz file that is cut off or damaged

NumberedRow = tuple[int, dict[str, Any]]


def iter_json_rows(file: RawFile, tally: Tally, table: str) -> Iterator[NumberedRow | SetAside]:
    """Yield (position, object) for every row of a file; blank lines do not count as rows.

    Args:
        file: JSON Lines, or one JSON array of objects; the first character says which.
        tally: counts the lines or elements that are read, good or bad, under `table`.
        table: name of the table that the rows are for.

    Raises:
        UserError: the file is neither JSON Lines nor a JSON array, or no row can be read.
    """
    with file.open() as stream:
        try:
            beginning = stream.read(_CHUNK_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
        except (*_UNPACKING_ERRORS, OSError) as error:
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
        rows = (_iter_array if beginning == b"[" else _iter_lines)(file, stream, tally, table)
        yield from _require_good_row(file, rows)


def _require_good_row(
    file: RawFile, rows: Iterator[NumberedRow | SetAside]
) -> Iterator[NumberedRow | SetAside]:
    """Pass all rows on once one of them is good.

    Raises:
        UserError: the file ends without a good row, or begins with more than _MAX_LEADING_BAD_ROWS bad ones.
    """
    broken: list[SetAside] = []
    for row in rows:
        if isinstance(row, SetAside) and len(broken) < _MAX_LEADING_BAD_ROWS:
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


def _iter_lines(
    file: RawFile, stream: BinaryIO, tally: Tally, table: str
) -> Iterator[NumberedRow | SetAside]:
    """Yield (line number from 0, object) for every line of JSON Lines."""
    number = -1
    while True:
        number += 1
        where = f"{file.name}:{number}"
        try:
            line, length = _read_bounded_line(stream)
        except _UNPACKING_ERRORS as error:
            tally.rows[table] += 1
            yield SetAside(table, where, "broken_off", cut_excerpt(error))
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
        yield SetAside(table, where, reason, cut_excerpt(line[:1_000]))


def _read_bounded_line(stream: BinaryIO) -> tuple[bytes, int]:
    """Return the next line, cut at MAX_LINE_BYTES, and its whole length in bytes."""
    line = stream.readline(MAX_LINE_BYTES)
    length, piece = len(line), line
    while len(piece) == MAX_LINE_BYTES and not piece.endswith(b"\n"):
        piece = stream.readline(MAX_LINE_BYTES)
        length += len(piece)
    return line, length


def _iter_array(
    file: RawFile, stream: BinaryIO, tally: Tally, table: str
) -> Iterator[NumberedRow | SetAside]:
    """Yield (position from 0, object) for every element of a JSON array."""
    text = _Utf8Stream(stream)
    rows = ijson.items(text, "item", use_float=True, buf_size=_CHUNK_BYTES)
    number, position = -1, 0
    while True:
        number += 1
        where = f"{file.name}:{number}"
        try:
            value = next(rows)
        except StopIteration:
            return
        except (ijson.JSONError, *_UNPACKING_ERRORS) as error:
            tally.rows[table] += 1
            message = " ".join(str(error).split())
            yield SetAside(table, where, "broken_off", cut_excerpt(f"before byte {text.position}: {message}"))
            return
        tally.rows[table] += 1
        tally.read_bytes(file, text.position - position)
        position = text.position
        if text.had_bad_bytes and _BAD_BYTES in json.dumps(value, ensure_ascii=False):
            yield SetAside(table, where, "invalid_utf8", cut_excerpt(value))
        elif isinstance(value, dict):
            yield number, value
        else:
            yield SetAside(table, where, "not_an_object", cut_excerpt(value))


class _Utf8Stream:
    """A stream in which bad bytes are replaced, because the parser would stop at the first byte that is not UTF-8."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("drift_bad_bytes")
        self.position = 0  # number of bytes that were read
        self.had_bad_bytes = False  # whether any byte so far was replaced

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, with bad ones replaced; empty only at the end of the stream."""
        while True:
            data = self._stream.read(size)
            self.position += len(data)
            text = self._decoder.decode(data, final=not data)
            self.had_bad_bytes = self.had_bad_bytes or _BAD_BYTES in text
            if text or not data:
                return text.encode()


def _replace_bad_bytes(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for the bytes of a decoding error, and where to go on: the handler of `_Utf8Stream`."""
    if isinstance(error, UnicodeDecodeError):
        return _BAD_BYTES, error.end
    raise error


codecs.register_error("drift_bad_bytes", _replace_bad_bytes)
