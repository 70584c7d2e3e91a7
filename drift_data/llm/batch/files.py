"""Request files of the Batch API, and the folders they are kept in, round by round. It opens no connection.

A round is a folder `round-001`, `round-002`, … with `requests-00000.jsonl`, …, what came back, and `round.json`,
which says what became of each file. A folder appears whole or not at all.
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
from drift_data.workspace import UserError, replaced_file

URL: Final = "/v1/chat/completions"
STATE: Final = "round.json"
_NEW: Final = ".new"
_START: Final = b'{"custom_id": "'
_KEY_LENGTH: Final = 64
_LINE_BREAKS: Final = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}


class RequestFile(BaseModel):
    """One file of requests and what became of it."""

    model_config = ConfigDict(extra="forbid")

    name: str
    sha256: str
    requests: int
    tokens: int  # of the prompts, estimated
    most: float  # what its answers can cost
    status: Literal["written", "submitting", "submitted", "collected", "failed"] = "written"
    upload: str | None = None  # the API's id of the uploaded file
    submission: str | None = None  # ours: written into the batch's metadata, to find it by
    batch: str | None = None  # the API's id


class RoundState(BaseModel):
    """What `round.json` holds."""

    model_config = ConfigDict(extra="forbid")

    files: list[RequestFile]
    closed: bool = False  # everything that was asked has been answered or given up: only history


@dataclass
class Round:
    """A folder of request files."""

    folder: Path
    state: RoundState

    def save(self) -> None:
        """Write the state; it is with the disk when this returns."""
        with replaced_file(self.folder / STATE) as part:
            part.write_text(self.state.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def results(self) -> list[Path]:
        """Return what has come back whole: result and error files of the collected batches."""
        numbers = [_number(file) for file in self.state.files if file.status == "collected"]
        paths = [path for number in numbers for path in self.result_paths(number)]
        return [path for path in paths if path.is_file()]

    def result_paths(self, number: str) -> tuple[Path, Path]:
        """Return where the answers and the failures of a file go."""
        return self.folder / f"results-{number}.jsonl", self.folder / f"errors-{number}.jsonl"

    def paths_of(self, file: RequestFile) -> tuple[Path, Path]:
        """Return where the answers and the failures of a file go."""
        return self.result_paths(_number(file))


def _number(file: RequestFile) -> str:
    return file.name.removeprefix("requests-").removesuffix(".jsonl")


def rounds(folder: Path) -> list[Round]:
    """Return the rounds in a folder, the oldest first.

    Raises:
        UserError: one of them cannot be read.
    """
    found = []
    for path in sorted(folder.glob("round-*"), key=_round_number):
        try:
            state = RoundState.model_validate_json((path / STATE).read_bytes())
        except (OSError, ValidationError) as error:
            raise UserError(
                f"{path / STATE} cannot be read: {error}. Move {path} away: its requests will be written again."
            ) from error
        found.append(Round(path, state))
    return found


def _round_number(path: Path) -> int:
    number = path.name.removeprefix("round-")
    return int(number) if number.isdecimal() else 0


def keys(path: Path) -> Iterator[str]:
    """Yield the `custom_id` of each request in a file."""
    with path.open("rb") as file:
        for line in file:
            if line.startswith(_START):
                yield line[len(_START) : len(_START) + _KEY_LENGTH].decode()


def request_line(request: Request) -> bytes:
    """Return a request as a line of a request file, readable by people and by anything that splits lines."""
    line = {"custom_id": request.key, "method": "POST", "url": URL, "body": request.body("openai")}
    text = json.dumps(line, ensure_ascii=False).translate(_LINE_BREAKS)
    return text.encode("utf-8", "replace") + b"\n"


class RequestWriter:
    """Writes a new round aside, request by request, within the limits of a file.

    Args:
        folder: that the round's folder goes into.
        requests: in a file, at most.
        size: of a file, in bytes, at most.
        tokens: of a file, at most; None: any number.
    """

    def __init__(self, folder: Path, requests: int, size: int, tokens: int | None) -> None:
        self._folder, self._new = folder, folder / _NEW
        self._requests, self._size, self._tokens = requests, size, tokens
        self._file: BinaryIO | None = None
        self._bytes, self._model, self._digest = 0, "", hashlib.sha256()
        self.files: list[RequestFile] = []
        shutil.rmtree(self._new, ignore_errors=True)

    def add(self, request: Request, tokens: int, most: float) -> bool:
        """Write a request; False when it is too large for any file."""
        line = request_line(request)
        if len(line) > self._size or (self._tokens is not None and tokens > self._tokens):
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
        """Say whether a request may go into the open file; the API wants one model a file."""
        if self._file is None:
            return True
        last = self.files[-1]
        return (
            request.sampling.model == self._model
            and last.requests < self._requests
            and self._bytes + size <= self._size
            and (self._tokens is None or last.tokens + tokens <= self._tokens)
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
        """Give the round its folder. If the last one holds the same and was never sent, that one is it."""
        self._end_file()
        if earlier and not earlier[-1].state.closed:
            last = earlier[-1]
            unsent = all(file.status == "written" for file in last.state.files)
            present = all((last.folder / file.name).is_file() for file in last.state.files)
            same = [file.sha256 for file in last.state.files] == [file.sha256 for file in self.files]
            if unsent and present and same:
                self.discard()
                return last
        number = _round_number(earlier[-1].folder) + 1 if earlier else 1
        made = Round(self._new, RoundState(files=self.files))
        made.save()
        made.folder = self._new.rename(self._folder / f"round-{number:03d}")
        return made

    def discard(self) -> None:
        """Throw away what was written."""
        if self._file is not None:
            with suppress(OSError):  # a full disk: what is still buffered is thrown away, too
                self._file.close()
            self._file = None
        shutil.rmtree(self._new, ignore_errors=True)
