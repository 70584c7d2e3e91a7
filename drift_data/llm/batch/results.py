"""Reads result and error files of the Batch API, line by line.

A line is an answer, a failure, or malformed. Its own content says which, never the file's name, so result and error
files may come in any order, from the API or from any tool that writes its format. Only `custom_id` must be there:
usage, ids and finish reasons may be missing.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from pydantic import BaseModel, Field, ValidationError

from drift_data.chats.safe_text import escape_invisible
from drift_data.llm.request import CONTENT_FILTER, Answer
from drift_data.llm.response import APIError, Completion, classify_refusal, read_error
from drift_data.workspace import UserError

_RESULT_SUFFIXES: Final = (".jsonl", ".jsonl.gz")
_MAX_LINE_BYTES: Final = 64 << 20  # a longer line counts as malformed
_MAX_DETAIL: Final = 300  # characters of a failure's message that are kept
# Error codes of requests that never reached the model.
_NEVER_ASKED_CODES: Final = frozenset({"batch_expired", "batch_cancelled"})


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no answer."""

    # One of few values, such as "status 429" or "batch_expired", because failures are counted by reason.
    reason: str
    detail: str | None  # the server's words, bounded
    error: str = "request_failed"  # kind of failure that the task is told, as in `Answer.error`
    tried: bool = True  # whether the model was asked; False if the batch ended before that
    hopeless: bool = False  # whether asking again would give the same


@dataclass(frozen=True, slots=True)
class Result:
    """What came back for one request."""

    key: str  # of the request, see `Request.key`
    outcome: Answer | Failure
    usage: bool = True  # whether the answer came with its token counts


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line that cannot be used."""

    location: str
    reason: str


class _Response(BaseModel):
    status_code: int = 200
    body: Any = None


class _Line(BaseModel):
    custom_id: str = Field(min_length=1)
    response: _Response | None = None
    error: APIError | None = None
    url: str | None = None  # only the lines of request files have it


def find_result_files(names: Sequence[str]) -> list[Path]:
    """Return the result and error files that RESULTS names, each once.

    Args:
        names: files, folders or globs.

    Raises:
        UserError: a name matches no result file.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.name.endswith(_RESULT_SUFFIXES))
            paths = [file for file in inside if not file.name.startswith("requests-")]
        elif path.is_file():
            paths = [path]
        else:
            paths = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 may be absolute
        paths = [file for file in paths if file.is_file()]
        if not paths:
            raise UserError(
                f"RESULTS={name}: no such file, no match, or a folder without {' or '.join(_RESULT_SUFFIXES)} files "
                "(a folder's requests-*.jsonl do not count: they hold the requests)."
            )
        found.update(dict.fromkeys(file.resolve() for file in paths))
    return list(found)


def read_results(path: Path) -> Iterator[Result | Malformed]:
    """Yield what each line of a result or error file says; empty lines are skipped.

    Raises:
        UserError: the file holds requests, or cannot be unpacked.
    """
    with path.open("rb") as raw:
        file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.name.endswith(".gz") else raw
        try:
            for number, line in enumerate(_read_lines(file), 1):
                if line is not None and number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line is None:
                    yield Malformed(f"{path}:{number}", "longer than any answer")
                elif line.strip():
                    yield _read_result(line, path, number)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path} cannot be unpacked: {error}. Fetch it again.") from error


def _read_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of a file; None for a line that is too long to be held in memory."""
    while line := file.readline(_MAX_LINE_BYTES):
        if line.endswith(b"\n") or len(line) < _MAX_LINE_BYTES:
            yield line
        else:
            while rest := file.readline(_MAX_LINE_BYTES):
                if rest.endswith(b"\n"):
                    break
            yield None


def _read_result(line: bytes, path: Path, number: int) -> Result | Malformed:
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = escape_invisible(f"{where}: {first['msg']}" if where else str(first["msg"]), _MAX_DETAIL)
        return Malformed(f"{path}:{number}", reason)
    if read.response is None and read.url is not None:
        raise UserError(
            f"{path} holds requests, not results. RESULTS= takes the output and error files that come back."
        )
    if read.response is None or read.response.status_code >= 400:
        return _read_failure(read)
    try:
        completion = Completion.model_validate(read.response.body)
    except ValidationError:
        return Result(read.custom_id, Failure("no chat completion", None))
    answer = completion.to_answer()
    if completion.is_aborted:
        detail = escape_invisible(answer.text, _MAX_DETAIL) or None
        return Result(read.custom_id, Failure(f"finish_reason {answer.finish_reason}", detail))
    return Result(read.custom_id, answer, usage=completion.usage is not None)


def _read_failure(line: _Line) -> Result:
    """Return what a line without an answer says. A prompt that a content filter refused counts as answered."""
    status = line.response.status_code if line.response else None
    error = line.error or read_error(line.response.body if line.response else None)
    code = "" if error.code is None else escape_invisible(str(error.code), 60)
    refused = classify_refusal(error, status)
    if refused == CONTENT_FILTER:
        return Result(line.custom_id, Answer(finish_reason=CONTENT_FILTER))
    detail = escape_invisible(error.message, _MAX_DETAIL) if error.message else None
    return Result(
        line.custom_id,
        Failure(
            f"status {status}" if status is not None else code or "no response",
            f"{code}: {detail}" if code and detail else detail or code or None,
            error=refused or "request_failed",
            tried=code not in _NEVER_ASKED_CODES,
            hopeless=refused is not None,
        ),
    )
