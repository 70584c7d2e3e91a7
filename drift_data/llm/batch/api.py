"""Sends request files through the Batch API and fetches what comes back. It knows files, not requests.

What is done is written down before and after each step that must not be done twice: a process that is killed
and started again finds its batches, by id or by the mark that it put into a batch's metadata.
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

from drift_data.chats.safe_text import visible
from drift_data.llm.batch.files import URL, RequestFile, Round
from drift_data.llm.server import ServerOptions
from drift_data.machine import MAX_SERVER_WORDS, hide_key
from drift_data.workspace import UserError, replaced_file

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

ENDED: Final = frozenset({"completed", "expired", "cancelled", "failed"})
_MARK: Final = "drift_submission"  # key of the metadata
_LOOK_BACK: Final = 2_000  # batches that are looked through for a lost one
_NO_MONEY: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_QUEUE_FULL: Final = "token_limit_exceeded"
_SHORTEST_WAIT: Final = 2.0  # seconds
_GROWTH: Final = 1.5
_RETRIES: Final = 6  # of one call
_LOST_LOOKS: Final = 60  # in a row, before the API counts as gone
_TIMEOUT: Final = 600.0  # seconds


class Later(Exception):
    """The API takes nothing more now: its queue for the account is full, or it is asked too often."""


class Unreachable(UserError):
    """The API cannot be reached, or fails by itself."""


@dataclass
class Sent:
    """A request file of a round that is to be sent or is at the API."""

    round: Round
    file: RequestFile

    @property
    def path(self) -> Path:
        """Return where the file is."""
        return self.round.folder / self.file.name

    def note(self, **changes: str | None) -> None:
        """Change the file's state and write it down."""
        for name, value in changes.items():
            setattr(self.file, name, value)
        self.round.save()


class BatchAPI:
    """The part of the API that batches need.

    Args:
        server: where it is.

    Raises:
        UserError: there is no key.
    """

    def __init__(self, server: ServerOptions) -> None:
        from openai import OpenAI

        self._server, self._key = server, server.key()
        self._client: OpenAI = OpenAI(
            api_key=self._key, base_url=server.url, max_retries=_RETRIES, timeout=_TIMEOUT
        )

    def find(self, sent: Sent) -> None:
        """Look for the batch of a file whose sending was cut short, and note what is found."""
        with self._told(sent):
            for batch in islice(self._client.batches.list(limit=100), _LOOK_BACK):
                if sent.file.submission and (batch.metadata or {}).get(_MARK) == sent.file.submission:
                    sent.note(status="submitted", batch=batch.id)
                    return
        sent.note(status="written", submission=None)

    def submit(self, sent: Sent) -> None:
        """Upload a file and make a batch of it.

        Raises:
            Later: the API has no room for it now.
        """
        with self._told(sent):
            if sent.file.upload is None:
                with sent.path.open("rb") as file:
                    sent.note(
                        upload=self._client.files.create(file=(sent.file.name, file), purpose="batch").id
                    )
            sent.note(status="submitting", submission=uuid4().hex)
            # One try: a second one after a cut connection could make the batch twice.
            batch = self._client.with_options(max_retries=0).batches.create(
                completion_window="24h",
                endpoint=URL,
                input_file_id=str(sent.file.upload),
                metadata={
                    _MARK: str(sent.file.submission),
                    "file": f"{sent.round.folder.name}/{sent.file.name}",
                },
            )
            sent.note(status="submitted", batch=batch.id)

    def retrieve(self, sent: Sent) -> Batch:
        """Return the batch of a file as it stands."""
        with self._told(sent):
            return self._client.batches.retrieve(str(sent.file.batch))

    def fetch(self, sent: Sent, batch: Batch) -> None:
        """Download answers and failures of a batch that has ended; what there is of them."""
        targets = sent.round.paths_of(sent.file)
        with self._told(sent):
            for file_id, target in zip((batch.output_file_id, batch.error_file_id), targets, strict=True):
                if file_id:
                    with (
                        replaced_file(target) as part,
                        self._client.files.with_streaming_response.content(file_id) as response,
                    ):
                        response.stream_to_file(part)
        sent.note(status="collected")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @contextmanager
    def _told(self, sent: Sent) -> Iterator[None]:
        """Turn the API's errors into ones for the user, without the key."""
        from httpx2 import HTTPError
        from openai import APIConnectionError, APIStatusError, InternalServerError, RateLimitError

        where = f"{sent.round.folder.name}/{sent.file.name}"
        go_on = "What is at the API goes on there; run the same command again to go on."
        try:
            yield
        except (APIConnectionError, InternalServerError, HTTPError) as error:
            raise Unreachable(
                f"{self._server.host} cannot be reached ({self._shown(str(error))}). {go_on}"
            ) from error
        except RateLimitError as error:
            if error.code in _NO_MONEY:
                raise UserError(
                    f"{self._server.host} says that the account has no credit left ({error.code}). Mend it there. {go_on}"
                ) from error
            raise Later(self._shown(error.message)) from error
        except APIStatusError as error:
            if error.status_code in (401, 403):
                raise UserError(
                    f"{self._server.host} refuses the key in ${self._server.api_key_env} (status {error.status_code}). Check it "
                    f"and what it may do. {go_on}"
                ) from None  # the API's own words repeat parts of the key
            raise UserError(
                f"{self._server.host} refuses {where}, status {error.status_code}: {self._shown(error.message)}. {go_on}"
            ) from error

    def _shown(self, text: str) -> str:
        return visible(hide_key(text, self._key), MAX_SERVER_WORDS)


class Sender:
    """Sends files, waits for their batches, and fetches what comes back.

    Args:
        api: the connection.
        files: to send, or at the API already.
        wait: longest time between two looks, in seconds.
        queue_tokens: prompt tokens that may be at the API at once; None: it will say so itself.
        patience: how long a file is offered to a full queue while nothing else is at the API, in seconds.
    """

    def __init__(
        self, api: BatchAPI, files: Sequence[Sent], wait: float, queue_tokens: int | None, patience: float
    ) -> None:
        self._api, self._open = api, list(files)
        self._wait, self._queue_tokens, self._patience = wait, queue_tokens, patience
        self._done: Counter[str] = Counter()  # requests by file
        self._refusals, self._refused_since, self._not_before = 0, 0.0, 0.0
        self._lost = 0  # looks in a row that did not get through

    def drive(self) -> None:
        """Send what is written, wait for all, fetch everything.

        Raises:
            UserError: the API refuses a file or the key, is gone, or someone has cancelled a batch.
        """
        shortest, cancelled = min(_SHORTEST_WAIT, self._wait), list[str]()
        delay, total = shortest, sum(sent.file.requests for sent in self._open)
        with tqdm(total=total, desc="batch", unit=" req", mininterval=0.5, file=sys.stderr) as bar:
            while self._open:
                self._send()
                bar.set_postfix_str(self._summary())
                time.sleep(delay)
                ended = [batch for sent in list(self._open) if (batch := self._look(sent)) is not None]
                cancelled += [batch.id for batch in ended if batch.status == "cancelled"]
                bar.update(self._done.total() - bar.n)
                delay = shortest if ended else min(self._wait, delay * _GROWTH)
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
            if not room or time.monotonic() < self._not_before:
                return
            try:
                if sent.file.status == "submitting":
                    self._api.find(sent)
                if sent.file.status == "written":
                    self._api.submit(sent)
            except Later as later:
                self._put_off(sent, str(later))
                return
            queued += sent.file.tokens

    def _look(self, sent: Sent) -> Batch | None:
        """Look after a file at the API; return its batch when that has ended and is fetched."""
        if sent.file.status != "submitted":
            return None
        try:
            batch = self._api.retrieve(sent)
            counts = batch.request_counts
            self._done[str(sent.path)] = (counts.completed + counts.failed) if counts else 0
            ended = batch.status in ENDED and self._end(sent, batch)
        except (Later, Unreachable) as error:
            self._lost += 1
            if self._lost > _LOST_LOOKS:
                raise UserError(str(error)) from error
            return None
        self._lost = 0
        if not ended:
            return None
        self._open.remove(sent)
        self._done[str(sent.path)] = sent.file.requests
        self._refusals, self._refused_since, self._not_before = 0, 0.0, 0.0  # the queue has room again
        return batch

    def _end(self, sent: Sent, batch: Batch) -> bool:
        """Fetch what an ended batch has brought; False when the file has to be sent again."""
        if batch.status != "failed":
            self._api.fetch(sent, batch)
            return True
        errors = (batch.errors.data if batch.errors else None) or []
        if any(error.code == _QUEUE_FULL for error in errors):
            sent.note(status="written", batch=None, submission=None)
            self._put_off(sent, next((error.message for error in errors if error.message), _QUEUE_FULL))
            return False
        sent.note(status="failed")
        told = "; ".join(
            f"{f'line {error.line}: ' if error.line else ''}{error.message or error.code}"
            for error in errors[:3]
        )
        raise UserError(
            f"The Batch API found fault with {sent.path}: {visible(told or 'it does not say what', MAX_SERVER_WORDS)}. "
            "Check the model's name and parameters and run again: the file will be written and sent anew."
        )

    def _put_off(self, sent: Sent, words: str) -> None:
        """Send a file later that the API does not take now; each time a longer while later."""
        now, words = time.monotonic(), visible(words, MAX_SERVER_WORDS)
        if any(other.file.status == "submitted" for other in self._open):
            self._refused_since = 0.0
        self._refused_since = self._refused_since or now
        if now - self._refused_since > self._patience:
            raise UserError(
                f"The API has had no room for {sent.path} (about {sent.file.tokens:,} tokens) for "
                f"{self._patience / 3600:.1f} h: {words}. Run the same command again later, or in smaller files: "
                "tell the tool the account's limit of enqueued tokens."
            )
        pause = self._wait * 2 ** min(self._refusals, 4)
        self._refusals, self._not_before = self._refusals + 1, now + pause
        tqdm.write(
            f"The API does not take {sent.path} now ({words}). It is sent again in {pause:,.0f} s, or when another "
            "batch has ended.",
            file=sys.stderr,
        )

    def _summary(self) -> str:
        there = sum(sent.file.status == "submitted" for sent in self._open)
        return f"{there} files at the API, {len(self._open) - there} to send"
