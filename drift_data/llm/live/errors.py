"""What it means when a server does not answer: try again, give this request up, or end the run with a word why.

Shown text never holds the key: it is cut out of the server's words, and where a key is refused these are not
shown at all, because some servers repeat parts of it.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Final

import aiohttp
import httpx2
import openai

from drift_data.chats.safe_text import visible
from drift_data.llm.request import CONTENT_FILTER, Answer
from drift_data.llm.response import REQUEST_REFUSED, APIError, error_of, refusal_of
from drift_data.llm.server import ServerOptions
from drift_data.machine import MAX_SERVER_WORDS, hide_key
from drift_data.workspace import UserError

NO_CONNECTION: Final = "no connection"  # reason of a failure
_NO_MONEY: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"})
_BUSY: Final = frozenset({429, 503, 504, 529})
_THROTTLED: Final = frozenset({429, 529})
_GONE: Final = frozenset({502, 503, 504})  # a gateway has nobody behind it
_GO_ON: Final = "What was answered is kept; run the same command again to go on."


class Failure(Exception):
    """A request was not answered.

    Args:
        reason: few distinct values, such as "status 500": they are counted.
        detail: the server's words, bounded and without the key.
        error: what its task is told when it is given up.
        again: another try may help.
        busy: the server has too much to do.
        unreachable: there is no server.
        throttled: the server will answer later; this is no fault.
        wait: seconds that the server asks to be left alone.
    """

    def __init__(
        self,
        reason: str,
        detail: str | None = None,
        *,
        error: str = "request_failed",
        again: bool = True,
        busy: bool = False,
        unreachable: bool = False,
        throttled: bool = False,
        wait: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.error = reason, detail, error
        self.again, self.busy, self.unreachable = again, busy, unreachable
        self.throttled, self.wait = throttled, wait

    @property
    def answer(self) -> Answer:
        """Return what the task gets."""
        return Answer(
            error=self.error, detail=f"{self.reason}: {self.detail}" if self.detail else self.reason
        )


class Faults:
    """Tells the faults of one server apart.

    Args:
        server: for messages.
        key: what must not be shown.
        patience: seconds; a server that asks for a longer wait ends the run.
    """

    def __init__(self, server: ServerOptions, key: str, patience: float) -> None:
        self._server, self._key, self._patience = server, key, patience

    def of(self, error: Exception, model: str) -> Answer | Failure:
        """Return what an error means for the request; a content filter's refusal is an answer.

        Raises:
            UserError: it means the end of the run.
        """
        if isinstance(error, openai.APIStatusError):
            return self._of_status(error, model)
        causes = list(_causes(error))
        if any(isinstance(cause, TimeoutError) for cause in causes):
            connecting = any(isinstance(cause, aiohttp.ConnectionTimeoutError) for cause in causes)
            return Failure(NO_CONNECTION, unreachable=True) if connecting else Failure("timeout", busy=True)
        if any(isinstance(cause, aiohttp.ClientConnectorError) for cause in causes):
            return Failure(NO_CONNECTION, self.shown(str(causes[-1])), unreachable=True)
        if isinstance(error, openai.APIConnectionError | httpx2.HTTPError | aiohttp.ClientError):
            return Failure("connection cut")
        raise error

    def shown(self, text: str | None) -> str | None:
        """Return a server's words as they may be shown."""
        if not text:
            return None
        return visible(hide_key(text, self._key), MAX_SERVER_WORDS)

    def end(self, failure: Failure, in_a_row: int) -> UserError:
        """Return why a run ends in which so many requests in a row have failed."""
        told = f"{failure.reason}: {failure.detail}" if failure.detail else failure.reason
        if failure.unreachable:
            return UserError(f"{self._server.url} cannot be reached ({told}). Is the server up? {_GO_ON}")
        if failure.error == REQUEST_REFUSED:
            return UserError(
                f"{self._server.url} refuses the requests ({told}). Check the model and label.sampling, or whether "
                f"the server knows response_format with a JSON schema. {_GO_ON}"
            )
        return UserError(
            f"{self._server.url} has failed {in_a_row} requests in a row, each for good ({told}). {_GO_ON}"
        )

    def _of_status(self, error: openai.APIStatusError, model: str) -> Answer | Failure:
        status, said, host = error.status_code, error_of(error.body), self._server.host
        words, refused = self.shown(said.message), refusal_of(said, status)
        if refused == CONTENT_FILTER:
            return Answer(finish_reason=CONTENT_FILTER)
        if status == 403 and isinstance(error.body, str):
            # A page, no error of the API: a firewall before it, which dislikes what one of the logs says.
            return Failure("status 403", words, error=REQUEST_REFUSED, again=False)
        if status in (401, 403):
            raise UserError(
                f"{host} refuses the key in ${self._server.api_key_env} (status {status}). Check the key and what "
                f"it may do. {_GO_ON}"
            )
        if status == 402 or _NO_MONEY & _codes(said):
            raise UserError(
                f"{host} says that the account has no credit left ({words or f'status {status}'}). {_GO_ON}"
            )
        if status == 404:
            raise UserError(
                f"{self._server.url} does not know the model {visible(model, 100)}, or is not the base URL of an "
                f"OpenAI-compatible server, which mostly ends in /v1 ({words or 'status 404'})."
            )
        if status == 408 or status == 409 or status == 429 or status >= 500:
            wait = retry_after(error.response.headers)
            if wait > self._patience:
                raise UserError(
                    f"{host} asks to be left alone for {wait:,.0f} s (status {status}). What was answered "
                    "is kept; run the same command again then."
                )
            return Failure(
                f"status {status}",
                words,
                busy=status in _BUSY or wait > 0,
                unreachable=status in _GONE,
                throttled=status in _THROTTLED or wait > 0,
                wait=wait,
            )
        return Failure(f"status {status}", words, error=refused or REQUEST_REFUSED, again=False)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait, by `retry-after-ms` or `Retry-After`; 0 when it does not."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name, "")
        try:
            seconds = float(value) / unit
        except ValueError:
            continue
        return max(seconds, 0.0) if seconds < float("inf") else 0.0
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    return max(moment.timestamp() - time.time(), 0.0)


def _codes(error: APIError) -> set[str]:
    return {str(value) for value in (error.code, error.type) if value is not None}


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
