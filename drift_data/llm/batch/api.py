"""Sends request files through the Batch API and fetches what comes back.

The state is saved before and after each step that must not be done twice. So a process that is killed and started
again finds its batches: by the API's id, or by an id of our own in the batch's metadata.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from tqdm import tqdm

from drift_data.chats.safe_text import escape_invisible
from drift_data.llm.batch.files import ENDPOINT, RequestFile, Round
from drift_data.llm.options import ServerOptions
from drift_data.llm.server import read_key
from drift_data.machine import MAX_SERVER_MESSAGE_CHARACTERS, hide_key
from drift_data.workspace import UserError, replace_file

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

_ENDED_STATUSES: Final = frozenset({"completed", "expired", "cancelled", "failed"})
_SUBMISSION_KEY: Final = "drift_submission"  # key in a batch's metadata, for our own id
_MAX_BATCHES_SEARCHED: Final = 2_000  # the newest batches, among which one is looked for by our own id
_NO_CREDIT_CODES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_QUEUE_FULL_CODE: Final = "token_limit_exceeded"
_FIRST_WAIT_SECONDS: Final = 2.0  # seconds between the first two looks at the API
_WAIT_GROWTH: Final = 1.5  # factor by which the wait grows after a look at which no batch had ended
_RETRIES_PER_CALL: Final = 6  # by the client library, for one call of the API
_MAX_FAILED_LOOKS: Final = 60  # looks in a row that fail before the run ends
_TIMEOUT_SECONDS: Final = 600.0  # seconds for one call of the API


class TryLater(Exception):
    """The API takes no file now: the account's queue is full, or there are too many calls."""


class Unreachable(UserError):
    """The API cannot be reached, or answers with a server error (status 500 or above)."""


@dataclass
class SentFile:
    """A request file that is to be sent or is at the API, with its round."""

    round: Round
    file: RequestFile

    @property
    def path(self) -> Path:
        """Return the file's path."""
        return self.round.folder / self.file.name

    def save_state(self, **changes: str | None) -> None:
        """Change the file's state and save it."""
        for name, value in changes.items():
            setattr(self.file, name, value)
        self.round.save()


class BatchAPI:
    """The calls of the API that batches need.

    Args:
        server: where the API is.

    Raises:
        UserError: there is no key.
    """

    def __init__(self, server: ServerOptions) -> None:
        from openai import OpenAI

        self._server, self._key = server, read_key(server)
        self._client: OpenAI = OpenAI(
            api_key=self._key, base_url=server.url, max_retries=_RETRIES_PER_CALL, timeout=_TIMEOUT_SECONDS
        )

    def find(self, sent: SentFile) -> None:
        """Look for the batch of a file whose sending was cut short, and save whether there is one."""
        with self._explained_errors(sent):
            for batch in islice(self._client.batches.list(limit=100), _MAX_BATCHES_SEARCHED):
                if (
                    sent.file.submission
                    and (batch.metadata or {}).get(_SUBMISSION_KEY) == sent.file.submission
                ):
                    sent.save_state(status="submitted", batch=batch.id)
                    return
        sent.save_state(status="written", submission=None)

    def submit(self, sent: SentFile) -> None:
        """Upload a file and make a batch of it.

        Raises:
            TryLater: the API has no room for the file now.
        """
        with self._explained_errors(sent):
            if sent.file.upload is None:
                with sent.path.open("rb") as file:
                    sent.save_state(
                        upload=self._client.files.create(file=(sent.file.name, file), purpose="batch").id
                    )
            sent.save_state(status="submitting", submission=uuid4().hex)
            # One try only: after a cut connection, another try could make the batch a second time.
            batch = self._client.with_options(max_retries=0).batches.create(
                completion_window="24h",
                endpoint=ENDPOINT,
                input_file_id=str(sent.file.upload),
                metadata={
                    _SUBMISSION_KEY: str(sent.file.submission),
                    "file": f"{sent.round.folder.name}/{sent.file.name}",
                },
            )
            sent.save_state(status="submitted", batch=batch.id)

    def retrieve(self, sent: SentFile) -> Batch:
        """Return the present state of a file's batch."""
        with self._explained_errors(sent):
            return self._client.batches.retrieve(str(sent.file.batch))

    def fetch(self, sent: SentFile, batch: Batch) -> None:
        """Download the answers and the failures of a batch that has ended, where there are any."""
        targets = sent.round.result_paths(sent.file)
        with self._explained_errors(sent):
            for file_id, target in zip((batch.output_file_id, batch.error_file_id), targets, strict=True):
                if file_id:
                    with (
                        replace_file(target) as part,
                        self._client.files.with_streaming_response.content(file_id) as response,
                    ):
                        response.stream_to_file(part)
        sent.save_state(status="collected")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def _explained_errors(self, sent: SentFile) -> Iterator[None]:
        """Turn the API's errors into errors for the user, without the key."""
        from httpx2 import HTTPError
        from openai import APIConnectionError, APIStatusError, InternalServerError, RateLimitError

        where = f"{sent.round.folder.name}/{sent.file.name}"
        go_on = "Batches at the API go on; run the same command again to fetch their answers."
        try:
            yield
        except (APIConnectionError, InternalServerError, HTTPError) as error:
            raise Unreachable(
                f"{self._server.host} cannot be reached ({self._clean_words(str(error))}). {go_on}"
            ) from error
        except RateLimitError as error:
            if error.code in _NO_CREDIT_CODES:
                raise UserError(
                    f"{self._server.host} says that the account has no credit left ({error.code}). Add credit there. "
                    f"{go_on}"
                ) from error
            raise TryLater(self._clean_words(error.message)) from error
        except APIStatusError as error:
            if error.status_code in (401, 403):
                raise UserError(
                    f"{self._server.host} refuses the key in ${self._server.api_key_env} (status {error.status_code}). "
                    f"Check the key and what it may do. {go_on}"
                ) from None  # the API's own words repeat parts of the key
            raise UserError(
                f"{self._server.host} refuses {where}, status {error.status_code}: "
                f"{self._clean_words(error.message)}. {go_on}"
            ) from error

    def _clean_words(self, text: str) -> str:
        return escape_invisible(hide_key(text, self._key), MAX_SERVER_MESSAGE_CHARACTERS)


class BatchRunner:
    """Sends files, waits for their batches, and fetches what comes back.

    Args:
        api: the connection.
        files: the files to send, and those that are at the API already.
        wait: most seconds between two looks at the API.
        queue_tokens: most prompt tokens at the API at once; None: the API says when that is reached.
        patience: seconds for which a file is offered to a full queue while no other file of the run is at the API.
    """

    def __init__(
        self, api: BatchAPI, files: Sequence[SentFile], wait: float, queue_tokens: int | None, patience: float
    ) -> None:
        self._api, self._open = api, list(files)
        self._wait, self._queue_tokens, self._patience = wait, queue_tokens, patience
        self._answered: Counter[str] = Counter()  # path of a file → requests that the API is done with
        self._refusals = 0  # times that the API took no file, since a batch last ended
        self._full_since = (
            0.0  # moment since which the queue is full with no file of this run in it; 0: it is not
        )
        self._next_try_at = 0.0  # moment before which no file is sent
        self._failed_looks = 0  # looks in a row that did not reach the API

    def run(self) -> None:
        """Send the files, wait for all batches and fetch their results.

        Raises:
            UserError: the API refuses a file or the key, cannot be reached any more, or someone has cancelled a batch.
        """
        shortest, cancelled = min(_FIRST_WAIT_SECONDS, self._wait), list[str]()
        delay, total = shortest, sum(sent.file.requests for sent in self._open)
        with tqdm(total=total, desc="batch", unit=" req", mininterval=0.5, file=sys.stderr) as bar:
            while self._open:
                self._send()
                bar.set_postfix_str(self._summary())
                time.sleep(delay)
                ended = [batch for sent in list(self._open) if (batch := self._look(sent)) is not None]
                cancelled += [batch.id for batch in ended if batch.status == "cancelled"]
                bar.update(self._answered.total() - bar.n)
                delay = shortest if ended else min(self._wait, delay * _WAIT_GROWTH)
        if cancelled:
            raise UserError(
                f"Someone cancelled {', '.join(cancelled)} at the API. What was answered is kept; run the same "
                "command again to send the rest, or with FINAL=1 to finish without it."
            )

    def _send(self) -> None:
        """Send files while the queue has room for them."""
        queued = sum(sent.file.tokens for sent in self._open if sent.file.status == "submitted")
        for sent in self._open:
            if sent.file.status == "submitted":
                continue
            room = self._queue_tokens is None or queued + sent.file.tokens <= self._queue_tokens
            if not room or time.monotonic() < self._next_try_at:
                return
            try:
                if sent.file.status == "submitting":
                    self._api.find(sent)
                if sent.file.status == "written":
                    self._api.submit(sent)
            except TryLater as later:
                self._put_off(sent, str(later))
                return
            queued += sent.file.tokens

    def _look(self, sent: SentFile) -> Batch | None:
        """Look at a file's batch; return the batch when it has ended and its results are fetched."""
        if sent.file.status != "submitted":
            return None
        try:
            batch = self._api.retrieve(sent)
            counts = batch.request_counts
            self._answered[str(sent.path)] = (counts.completed + counts.failed) if counts else 0
            ended = batch.status in _ENDED_STATUSES and self._collect(sent, batch)
        except (TryLater, Unreachable) as error:
            self._failed_looks += 1
            if self._failed_looks > _MAX_FAILED_LOOKS:
                raise UserError(str(error)) from error
            return None
        self._failed_looks = 0
        if not ended:
            return None
        self._open.remove(sent)
        self._answered[str(sent.path)] = sent.file.requests
        # The ended batch has left the queue.
        self._refusals, self._full_since, self._next_try_at = 0, 0.0, 0.0
        return batch

    def _collect(self, sent: SentFile, batch: Batch) -> bool:
        """Fetch the results of an ended batch; return False when its file has to be sent again.

        Raises:
            UserError: the API refuses what the file holds.
        """
        if batch.status != "failed":
            self._api.fetch(sent, batch)
            return True
        errors = (batch.errors.data if batch.errors else None) or []
        if any(error.code == _QUEUE_FULL_CODE for error in errors):
            sent.save_state(status="written", batch=None, submission=None)
            self._put_off(sent, next((error.message for error in errors if error.message), _QUEUE_FULL_CODE))
            return False
        sent.save_state(status="failed")
        told = "; ".join(
            f"{f'line {error.line}: ' if error.line else ''}{error.message or error.code}"
            for error in errors[:3]
        )
        raise UserError(
            f"The Batch API rejects {sent.path}: "
            f"{escape_invisible(told or 'it does not say why', MAX_SERVER_MESSAGE_CHARACTERS)}. Check the model's name and "
            "parameters and run again: the file will be written and sent anew."
        )

    def _put_off(self, sent: SentFile, words: str) -> None:
        """Send a file later that the API does not take now; the pause doubles each time, up to 16 times `wait`.

        Raises:
            UserError: the queue has been full for longer than `patience`.
        """
        now, words = time.monotonic(), escape_invisible(words, MAX_SERVER_MESSAGE_CHARACTERS)
        if any(other.file.status == "submitted" for other in self._open):
            self._full_since = 0.0
        self._full_since = self._full_since or now
        if now - self._full_since > self._patience:
            raise UserError(
                f"The API has had no room for {sent.path} (about {sent.file.tokens:,} tokens) for "
                f"{self._patience / 3600:.1f} h: {words}. Run the same command again later, or with smaller files: "
                "set label.batch.enqueued_tokens to the account's limit."
            )
        pause = self._wait * 2 ** min(self._refusals, 4)
        self._refusals, self._next_try_at = self._refusals + 1, now + pause
        tqdm.write(
            f"The API does not take {sent.path} now ({words}). It is sent again in {pause:,.0f} s, or when another "
            "batch has ended.",
            file=sys.stderr,
        )

    def _summary(self) -> str:
        there = sum(sent.file.status == "submitted" for sent in self._open)
        return f"{there} files at the API, {len(self._open) - there} to send"
