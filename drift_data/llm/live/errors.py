"""Decides what a server's error means: try again, give the request up, or end the run and say why.

No message holds the key: the key is cut out of the server's words. When a server refuses the key, its words are not
shown at all, because some servers repeat parts of the key.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Final

import aiohttp
import httpx2
import openai

from drift_data.chats.safe_text import escape_invisible
from drift_data.llm.options import ServerOptions
from drift_data.llm.request import CONTENT_FILTER, Answer
from drift_data.llm.response import REQUEST_REFUSED, APIError, classify_refusal, read_error
from drift_data.machine import MAX_SERVER_MESSAGE_CHARACTERS, hide_key
from drift_data.workspace import UserError

NO_CONNECTION: Final = "no connection"  # reason of a failed attempt
_NO_CREDIT_CODES: Final = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"}
)
_BUSY_STATUSES: Final = frozenset({429, 503, 504, 529})
_THROTTLED_STATUSES: Final = frozenset({429, 529})
_UNREACHABLE_STATUSES: Final = frozenset({502, 503, 504})  # a gateway answers, but no server is behind it
_HOW_TO_GO_ON: Final = "What was answered is kept; run the same command again to go on."


class FailedAttempt(Exception):
    """One attempt to get an answer has failed.

    Args:
        reason: one of few values, such as "status 500", because attempts are counted by reason.
        detail: the server's words, bounded and without the key.
        error: kind of failure that the task is told when the request is given up, as in `Answer.error`.
        again: whether another try may help.
        busy: whether the server has too much to do.
        unreachable: whether there is no server.
        throttled: whether the server has only put the request off; such attempts do not count as tries.
        wait: seconds for which the server asks to get no request.
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
        """Return the answer that tells the task that its request was given up."""
        return Answer(
            error=self.error, detail=f"{self.reason}: {self.detail}" if self.detail else self.reason
        )


class ServerErrors:
    """Explains the errors of one server.

    Args:
        server: named in messages.
        key: cut out of messages.
        patience: seconds; a server that asks for a longer wait ends the run.
    """

    def __init__(self, server: ServerOptions, key: str, patience: float) -> None:
        self._server, self._key, self._patience = server, key, patience

    def explain(self, error: Exception, model: str) -> Answer | FailedAttempt:
        """Return what an error means for the request; a content filter's refusal is an answer.

        Raises:
            UserError: the error ends the run.
        """
        if isinstance(error, openai.APIStatusError):
            return self._explain_status(error, model)
        causes = list(_list_causes(error))
        if any(isinstance(cause, TimeoutError) for cause in causes):
            if any(isinstance(cause, aiohttp.ConnectionTimeoutError) for cause in causes):
                return FailedAttempt(NO_CONNECTION, unreachable=True)
            return FailedAttempt("timeout", busy=True)
        if any(isinstance(cause, aiohttp.ClientConnectorError) for cause in causes):
            return FailedAttempt(NO_CONNECTION, self.clean_words(str(causes[-1])), unreachable=True)
        if isinstance(error, openai.APIConnectionError | httpx2.HTTPError | aiohttp.ClientError):
            return FailedAttempt("connection cut")
        raise error

    def clean_words(self, text: str | None) -> str | None:
        """Return a server's words, bounded and without the key; None for no words."""
        if not text:
            return None
        return escape_invisible(hide_key(text, self._key), MAX_SERVER_MESSAGE_CHARACTERS)

    def explain_end(self, failure: FailedAttempt, in_a_row: int) -> UserError:
        """Return the error that ends a run in which `in_a_row` requests have failed in a row, this one last."""
        told = f"{failure.reason}: {failure.detail}" if failure.detail else failure.reason
        if failure.unreachable:
            return UserError(
                f"{self._server.url} cannot be reached ({told}). Is the server up? {_HOW_TO_GO_ON}"
            )
        if failure.error == REQUEST_REFUSED:
            return UserError(
                f"{self._server.url} refuses the requests ({told}). Check the model and label.sampling, or whether "
                f"the server knows response_format with a JSON schema. {_HOW_TO_GO_ON}"
            )
        return UserError(
            f"{self._server.url} has failed {in_a_row} requests in a row, each for good ({told}). {_HOW_TO_GO_ON}"
        )

    def _explain_status(self, error: openai.APIStatusError, model: str) -> Answer | FailedAttempt:
        status, said, host = error.status_code, read_error(error.body), self._server.host
        words, refused = self.clean_words(said.message), classify_refusal(said, status)
        if refused == CONTENT_FILTER:
            return Answer(finish_reason=CONTENT_FILTER)
        if status == 403 and isinstance(error.body, str):
            # The body is a page instead of an API error: a firewall in front of the API refuses the text of this log.
            return FailedAttempt("status 403", words, error=REQUEST_REFUSED, again=False)
        if status in (401, 403):
            raise UserError(
                f"{host} refuses the key in ${self._server.api_key_env} (status {status}). Check the key and what "
                f"it may do. {_HOW_TO_GO_ON}"
            )
        if status == 402 or _NO_CREDIT_CODES & _read_codes(said):
            raise UserError(
                f"{host} says that the account has no credit left ({words or f'status {status}'}). {_HOW_TO_GO_ON}"
            )
        if status == 404:
            raise UserError(
                f"{self._server.url} does not know the model {escape_invisible(model, 100)}, or is not the base URL of "
                f"an OpenAI-compatible server, which mostly ends in /v1 ({words or 'status 404'}). Check MODEL= and "
                "BASE_URL=."
            )
        if status == 408 or status == 409 or status == 429 or status >= 500:
            wait = read_retry_after(error.response.headers)
            if wait > self._patience:
                raise UserError(
                    f"{host} asks to get no request for {wait:,.0f} s (status {status}), longer than the "
                    f"{self._patience:,.0f} s of label.client.patience. What was answered is kept; run the same "
                    "command again after that time."
                )
            return FailedAttempt(
                f"status {status}",
                words,
                busy=status in _BUSY_STATUSES or wait > 0,
                unreachable=status in _UNREACHABLE_STATUSES,
                throttled=status in _THROTTLED_STATUSES or wait > 0,
                wait=wait,
            )
        return FailedAttempt(f"status {status}", words, error=refused or REQUEST_REFUSED, again=False)


def read_retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait, by `retry-after-ms` or `Retry-After`; 0 when it asks for none."""
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


def _read_codes(error: APIError) -> set[str]:
    return {str(value) for value in (error.code, error.type) if value is not None}


def _list_causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
