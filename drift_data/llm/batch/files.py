"""Writes and reads request files of the Batch API, and the folders in which they are kept, round by round.

A round is a folder `round-001`, `round-002`, … with `requests-00000.jsonl`, …, the results that came back, and
`round.json`, which says what became of each file. A folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from drift_data.llm.request import Request
from drift_data.workspace import UserError, replace_file

ENDPOINT: Final = "/v1/chat/completions"  # path at the API to which each line of a request file goes
ROUND_FILE: Final = "round.json"
_UNFINISHED: Final = ".new"  # name of a round's folder while the round is being written
_LINE_START: Final = b'{"custom_id": "'  # of each line of a request file; the request's key follows
_KEY_LENGTH: Final = 64  # hex digits
# Characters that some tools, but not JSON, take for the end of a line → the same as JSON escapes.
_LINE_BREAKS: Final = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


class RequestFile(BaseModel):
    """One file of requests and what became of it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    sha256: str
    requests: int
    tokens: int  # tokens of all its prompts together, estimated
    most: float  # the most that its answers can cost
    status: Literal["written", "submitting", "submitted", "collected", "failed"] = "written"
    upload: str | None = None  # the API's id of the uploaded file
    submission: str | None = None  # our own id, written into the batch's metadata to find the batch by
    batch: str | None = None  # the API's id of the batch


class RoundState(BaseModel):
    """What `round.json` holds."""

    model_config = ConfigDict(extra="forbid")

    files: list[RequestFile]
    closed: bool = False  # every request has been answered or given up; the round is only history


@dataclass
class Round:
    """A folder of request files, and what became of them."""

    folder: Path
    state: RoundState

    def save(self) -> None:
        """Write the state to the disk."""
        with replace_file(self.folder / ROUND_FILE) as part:
            part.write_text(self.state.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def list_results(self) -> list[Path]:
        """Return the result and error files of the batches that were fetched to the end."""
        collected = [file for file in self.state.files if file.status == "collected"]
        paths = [path for file in collected for path in self.result_paths(file)]
        return [path for path in paths if path.is_file()]

    def result_paths(self, file: RequestFile) -> tuple[Path, Path]:
        """Return where the answers to a file's requests go, and where the failures go."""
        number = _read_file_number(file)
        return self.folder / f"results-{number}.jsonl", self.folder / f"errors-{number}.jsonl"


def _read_file_number(file: RequestFile) -> str:
    return file.name.removeprefix("requests-").removesuffix(".jsonl")


def load_rounds(folder: Path) -> list[Round]:
    """Return the rounds in a folder, the oldest first.

    Raises:
        UserError: a round's state cannot be read.
    """
    found = []
    for path in sorted(folder.glob("round-*"), key=_parse_round_number):
        try:
            state = RoundState.model_validate_json((path / ROUND_FILE).read_bytes())
        except (OSError, ValidationError) as error:
            raise UserError(
                f"{path / ROUND_FILE} cannot be read: {error}. Move {path} away: its requests will be written again."
            ) from error
        found.append(Round(path, state))
    return found


def _parse_round_number(path: Path) -> int:
    number = path.name.removeprefix("round-")
    return int(number) if number.isdecimal() else 0


def read_keys(path: Path) -> Iterator[str]:
    """Yield the `custom_id` of each request in a file."""
    with path.open("rb") as file:
        for line in file:
            if line.startswith(_LINE_START):
                yield line[len(_LINE_START) : len(_LINE_START) + _KEY_LENGTH].decode()


def make_request_line(request: Request) -> bytes:
    """Return a request as a line of a request file, readable by people and by anything that splits lines."""
    line = {"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": request.body("openai")}
    text = json.dumps(line, ensure_ascii=False).translate(_LINE_BREAKS)
    return text.encode("utf-8", "replace") + b"\n"


class RequestWriter:
    """Writes a new round, request by request, into a folder that `publish` makes one of the rounds.

    Args:
        folder: holds all rounds.
        max_requests: most requests in one file.
        max_bytes: most bytes of one file.
        max_tokens: most prompt tokens in one file; None: any number.
    """

    def __init__(self, folder: Path, max_requests: int, max_bytes: int, max_tokens: int | None) -> None:
        self._folder, self._new = folder, folder / _UNFINISHED
        self._max_requests, self._max_bytes, self._max_tokens = max_requests, max_bytes, max_tokens
        self._file: BinaryIO | None = None
        self._bytes, self._model, self._digest = 0, "", hashlib.sha256()
        self.files: list[RequestFile] = []
        shutil.rmtree(self._new, ignore_errors=True)

    def add(self, request: Request, tokens: int, most: float) -> bool:
        """Write a request; return False when it is too large for any file.

        Args:
            request: goes into the open file, or into a new one where that is full.
            tokens: tokens of the request's prompt, estimated.
            most: the most that the request can cost.
        """
        line = make_request_line(request)
        if len(line) > self._max_bytes or (self._max_tokens is not None and tokens > self._max_tokens):
            return False
        if not self._fits(request, len(line), tokens):
            self._end_file()
        if self._file is None:
            self._begin_file(request.sampling.model)
        assert self._file is not None
        self._file.write(line)
        self._digest.update(line)
        self._bytes += len(line)
        last = self.files[-1]
        last.requests, last.tokens, last.most = last.requests + 1, last.tokens + tokens, last.most + most
        return True

    def _fits(self, request: Request, size: int, tokens: int) -> bool:
        """Say whether a request may go into the open file; the API takes one model in a file."""
        if self._file is None:
            return True
        last = self.files[-1]
        return (
            request.sampling.model == self._model
            and last.requests < self._max_requests
            and self._bytes + size <= self._max_bytes
            and (self._max_tokens is None or last.tokens + tokens <= self._max_tokens)
        )

    def _begin_file(self, model: str) -> None:
        name = f"requests-{len(self.files):05d}.jsonl"
        self._new.mkdir(parents=True, exist_ok=True)
        self._file = (self._new / name).open("wb")
        self._bytes, self._model, self._digest = 0, model, hashlib.sha256()
        self.files.append(RequestFile(name=name, sha256="", requests=0, tokens=0, most=0.0))

    def _end_file(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            self.files[-1].sha256 = self._digest.hexdigest()

    def publish(self, earlier: list[Round]) -> Round:
        """Give the new round its folder and return it.

        If the last round holds the same requests and was never sent, return that one and discard the new one.
        """
        self._end_file()
        if earlier and not earlier[-1].state.closed:
            last = earlier[-1]
            unsent = all(file.status == "written" for file in last.state.files)
            present = all((last.folder / file.name).is_file() for file in last.state.files)
            same = [file.sha256 for file in last.state.files] == [file.sha256 for file in self.files]
            if unsent and present and same:
                self.discard()
                return last
        number = _parse_round_number(earlier[-1].folder) + 1 if earlier else 1
        made = Round(self._new, RoundState(files=self.files))
        made.save()
        made.folder = self._new.rename(self._folder / f"round-{number:03d}")
        return made

    def discard(self) -> None:
        """Remove what was written and not published."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk, closing fails; the file is removed below anyway
                self._file.close()
            self._file = None
        shutil.rmtree(self._new, ignore_errors=True)
