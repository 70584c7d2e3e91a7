"""Reads result and error files of the Batch API, line by line. It knows the format, not who asked.

A line is an answer, a failure, or malformed; it is told apart by its own content, never by the file's name, so
result and error files may come in any order, from the API or from any tool that writes its format. Only
`custom_id` must be there: usage, ids and finish reasons may be missing.
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

from drift_data.chats.safe_text import visible
from drift_data.llm.request import CONTENT_FILTER, Answer
from drift_data.llm.response import APIError, Completion, error_of, refusal_of
from drift_data.workspace import UserError

_ENDINGS: Final = (".jsonl", ".jsonl.gz")
_LONGEST_LINE: Final = 64 << 20  # bytes
_DETAIL: Final = 300  # characters of a failure's message that are kept
_NEVER_ANSWERED: Final = frozenset({"batch_expired", "batch_cancelled"})  # error codes: nothing was tried


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no answer."""

    reason: str  # few distinct values, such as "status 429", "batch_expired": they are counted
    detail: str | None  # the server's words, bounded
    error: str = "request_failed"  # what its task is told, when it is given up
    tried: bool = True  # the model was asked; False when the batch ended before
    hopeless: bool = False  # asking again gives the same


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one request."""

    key: str
    outcome: Answer | Failure
    usage: bool = True  # the answer came with its tokens


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
    url: str | None = None  # of a request: these are no results


def result_files(names: Sequence[str]) -> list[Path]:
    """Return the result and error files that RESULTS names, each once: files, folders or globs.

    Raises:
        UserError: nothing is there.
    """
    found: dict[Path, None] = {}
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.name.endswith(_ENDINGS))
            paths = [file for file in inside if not file.name.startswith("requests-")]
        elif path.is_file():
            paths = [path]
        else:
            paths = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 may be absolute
        paths = [file for file in paths if file.is_file()]
        if not paths:
            raise UserError(
                f"RESULTS={name}: no such file, no match, or a folder without {' or '.join(_ENDINGS)} files "
                "(requests-*.jsonl are what was asked, not results)."
            )
        found.update(dict.fromkeys(file.resolve() for file in paths))
    return list(found)


def read_results(path: Path) -> Iterator[Result | Malformed]:
    """Yield what each line of a result or error file says; empty lines are passed over.

    Raises:
        UserError: it is a file of requests, or it cannot be unpacked.
    """
    with path.open("rb") as raw:
        file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.name.endswith(".gz") else raw
        try:
            for number, line in enumerate(_lines(file), 1):
                if line is not None and number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line is None:
                    yield Malformed(f"{path}:{number}", "longer than any answer")
                elif line.strip():
                    yield _result(line, path, number)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path} cannot be unpacked: {error}. Fetch it again.") from error


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Yield lines; None for one that is too long to be held."""
    while line := file.readline(_LONGEST_LINE):
        if line.endswith(b"\n") or len(line) < _LONGEST_LINE:
            yield line
        else:
            while rest := file.readline(_LONGEST_LINE):
                if rest.endswith(b"\n"):
                    break
            yield None


def _result(line: bytes, path: Path, number: int) -> Result | Malformed:
    try:
        read = _Line.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = visible(f"{where}: {first['msg']}" if where else str(first["msg"]), _DETAIL)
        return Malformed(f"{path}:{number}", reason)
    if read.response is None and read.url is not None:
        raise UserError(
            f"{path} holds requests, not results. RESULTS= takes the output and error files that come back."
        )
    if read.response is None or read.response.status_code >= 400:
        return _failed(read)
    try:
        completion = Completion.model_validate(read.response.body)
    except ValidationError:
        return Result(read.custom_id, Failure("no chat completion", None))
    answer = completion.answer()
    if completion.aborted:
        detail = visible(answer.text, _DETAIL) or None
        return Result(read.custom_id, Failure(f"finish_reason {answer.finish_reason}", detail))
    return Result(read.custom_id, answer, usage=completion.usage is not None)


def _failed(line: _Line) -> Result:
    """Return what a line without an answer says; a prompt that a content filter refused counts as answered."""
    status = line.response.status_code if line.response else None
    error = line.error or error_of(line.response.body if line.response else None)
    code = "" if error.code is None else visible(str(error.code), 60)
    refused = refusal_of(error, status)
    if refused == CONTENT_FILTER:
        return Result(line.custom_id, Answer(finish_reason=CONTENT_FILTER))
    detail = visible(error.message, _DETAIL) if error.message else None
    return Result(
        line.custom_id,
        Failure(
            f"status {status}" if status is not None else code or "no response",
            f"{code}: {detail}" if code and detail else detail or code or None,
            error=refused or "request_failed",
            tried=code not in _NEVER_ANSWERED,
            hopeless=refused is not None,
        ),
    )
