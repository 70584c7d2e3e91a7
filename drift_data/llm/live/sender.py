"""Sends a request to an OpenAI-compatible server until the request is answered, is given up, or ends the run.

An answer is in the store before its slot at the server goes to the next request. So after a kill at any moment, only
the requests that were on their way are asked again.
"""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
import time
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Final

import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from drift_data.llm.cost import Spending
from drift_data.llm.live.concurrency import Limiter
from drift_data.llm.live.errors import NO_CONNECTION, FailedAttempt, ServerErrors
from drift_data.llm.options import ClientOptions, ServerOptions
from drift_data.llm.request import Answer, Dialect, Request
from drift_data.llm.response import PROMPT_TOO_LONG, Completion
from drift_data.llm.server import read_key
from drift_data.llm.store import Store

_KIND: Final = "openai"  # how the store names this way of asking
_CONNECT_SECONDS: Final = 10.0  # time to reach the server
_KEEP_ALIVE_SECONDS: Final = 4.0  # less than the 5 seconds after which most servers close an idle connection
# Once the server is known to answer such requests, this many times `breaker` failures in a row end the run.
_BREAKER_FACTOR_IF_ANSWERED: Final = 10


class Sender:
    """The connection to a server, and how its requests have fared.

    Args:
        store: gets the answers.
        spending: counts tokens and money.
        server: where the model is.
        options: how many requests at once, and how patiently.
        limiter: hands out slots at the server.
        failures: gets the number of failed attempts, by reason.
    """

    def __init__(
        self,
        store: Store,
        spending: Spending,
        server: ServerOptions,
        options: ClientOptions,
        limiter: Limiter,
        failures: Counter[str],
    ) -> None:
        self._store, self._spending, self._options = store, spending, options
        self._limiter, self._failures = limiter, failures
        key = read_key(server)
        self._errors = ServerErrors(server, key, options.patience)
        self._dialect: Dialect = "openai" if server.at_openai else "compatible"
        self._answered = self._failed_in_a_row = (
            0  # requests of this run; failures are counted when they are final
        )
        self._last_failure: FailedAttempt | None = None
        self._ended: Exception | None = None  # why the run has ended; None: the run goes on
        self._reserving, self._recorded = asyncio.Lock(), asyncio.Event()
        timeout = httpx2.Timeout(options.timeout, connect=min(_CONNECT_SECONDS, options.timeout))
        limits = httpx2.Limits(max_connections=options.connections, keepalive_expiry=_KEEP_ALIVE_SECONDS)
        self._client = AsyncOpenAI(
            api_key=key,
            base_url=server.url,
            max_retries=0,
            timeout=timeout,
            http_client=DefaultAioHttpClient(
                timeout=timeout,
                limits=limits,
                verify=_load_certificates(),
                event_hooks={"request": [self._acquire_slot]},
            ),
        )
        self._wait = wait_random_exponential(multiplier=options.first_wait, max=options.longest_wait)

    async def ask(self, request: Request) -> Answer:
        """Return the answer to a request, already stored, or an answer with `error` that says why there is none.

        Raises:
            UserError: the run has to end, for a reason that `Client.run` lists.
        """
        if not await self._reserve(request):
            return Answer(error="over_budget")
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, FailedAttempt) and error.again),
            wait=self._wait,
            stop=_StopRetrying(self._options),
            reraise=True,
        )
        try:
            answer: Answer = await retrying(self._attempt, request)
            self._answered, self._failed_in_a_row = self._answered + 1, 0
        except FailedAttempt as failure:
            answer = failure.answer
            self._count_failure(failure)
        except Exception as error:
            self._ended = error
            raise
        self._spending.record(request, answer)
        self._recorded.set()
        return answer

    def finish(self) -> None:
        """End a run, and raise an error if it got no answer at all.

        Raises:
            UserError: no request of the run was answered; besides, the server could not be reached, or the store had
                no answer for the run either. The message says why.
        """
        failure = self._last_failure
        never_there = failure is not None and failure.reason == NO_CONNECTION
        if failure and not self._answered and (never_there or not self._spending.stored):
            raise self._errors.explain_end(failure, self._failed_in_a_row)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _reserve(self, request: Request) -> bool:
        """Set the price of a request aside; say whether the budget has room for it.

        If the budget has no room now, wait until other requests are answered and have cost less than was set aside.
        """
        spending = self._spending
        if spending.budget is None:
            return True
        async with self._reserving:
            while not spending.reserve(request):
                if not spending.has_reserved:
                    spending.over_budget += 1
                    return False
                self._recorded.clear()
                await self._recorded.wait()
        return True

    async def _attempt(self, request: Request) -> Answer:
        """Send a request once; the answer is stored before the slot is given back."""
        slot = _Slot(asyncio.timeout(None))
        _SLOT.set(slot)
        try:
            answer = await self._read_reply(request, slot)
            answer = replace(answer, price=self._spending.price_of(answer))
            self._store.put(request, answer, backend=_KIND, seconds=time.monotonic() - (slot.taken or 0.0))
        except BaseException as error:
            self._release_slot(slot, error)
            raise
        self._limiter.release_answered()
        return answer

    def _release_slot(self, slot: _Slot, error: BaseException) -> None:
        """Give a slot back after a failed attempt, if the attempt had one."""
        if isinstance(error, FailedAttempt):
            self._failures[error.reason] += 1
        if slot.taken is None:
            return
        if isinstance(error, FailedAttempt) and error.busy:
            self._limiter.release_refused(slot.taken, error.wait)
        else:
            self._limiter.release_failed()

    async def _read_reply(self, request: Request, slot: _Slot) -> Answer:
        """Send a request and read its answer.

        Raises:
            FailedAttempt: there is no usable answer.
            UserError: the run has to end, for a reason that `Client.run` lists.
        """
        response = await self._send(request, slot)
        if isinstance(response, Exception):
            # Raised here, not where `_send` catches it: the client's errors hold headers, and headers hold the key.
            outcome = self._errors.explain(response, request.sampling.model)
            if isinstance(outcome, FailedAttempt):
                raise outcome
            return outcome
        try:
            completion = Completion.model_validate_json(response.content)
        except ValidationError:
            raise FailedAttempt("no chat completion", self._errors.clean_words(response.text)) from None
        answer = completion.to_answer()
        if completion.is_aborted:
            raise FailedAttempt(
                f"finish_reason {answer.finish_reason}", self._errors.clean_words(answer.text)
            )
        if completion.usage is None:
            answer = self._spending.estimate_tokens(request, answer)
        return answer

    async def _send(self, request: Request, slot: _Slot) -> httpx2.Response | Exception:
        """Send a request when it has a slot; return the response, or the error that came instead."""
        # The body goes as bytes: the client's own models of requests and answers would halve the speed.
        body = json.dumps(request.body(self._dialect), ensure_ascii=False).encode("utf-8", "replace")
        try:
            async with slot.timeout:
                return await self._client.post(
                    "/chat/completions",
                    cast_to=httpx2.Response,
                    content=body,
                    options={"headers": {"Content-Type": "application/json"}},
                )
        except Exception as error:
            return error

    async def _acquire_slot(self, _: httpx2.Request) -> None:
        """Wait for a slot. The HTTP request is ready then and only has to be sent, so that no slot stands idle."""
        slot = _SLOT.get()
        if slot.taken is None:  # after a redirect the request has its slot already
            slot.taken = await self._limiter.acquire()
            slot.timeout.reschedule(asyncio.get_running_loop().time() + self._options.timeout)
            if self._ended is not None:
                raise self._ended  # the run has ended; slots come free before those who wait are cancelled

    def _count_failure(self, failure: FailedAttempt) -> None:
        """Count a request that failed for good, and end the run when there are too many in a row."""
        if failure.error == PROMPT_TOO_LONG:
            return
        self._last_failure, self._failed_in_a_row = failure, self._failed_in_a_row + 1
        # A run that is started again may have only such requests left as always fail: they must not end that run.
        known = (self._answered or self._spending.stored) and not failure.unreachable
        if self._failed_in_a_row >= self._options.breaker * (_BREAKER_FACTOR_IF_ANSWERED if known else 1):
            self._ended = self._errors.explain_end(failure, self._failed_in_a_row)
            raise self._ended


@functools.cache
def _load_certificates() -> ssl.SSLContext:
    """Load the certificates that servers are checked by; this takes a tenth of a second."""
    return httpx2.create_ssl_context()


@dataclass
class _Slot:
    """The slot of a request at the server."""

    timeout: asyncio.Timeout  # how long the request may keep the slot
    taken: float | None = None  # the moment at which the request got the slot; None: it waits for one


_SLOT: ContextVar[_Slot] = ContextVar("slot")  # the slot of the attempt that this coroutine makes


class _StopRetrying:
    """Says when to stop retrying: after `tries` failures or `patience` seconds.

    An attempt that the server only puts off does not count as a failure.
    """

    def __init__(self, options: ClientOptions) -> None:
        self._options, self._failures = options, 0

    def __call__(self, state: RetryCallState) -> bool:
        failure = state.outcome.exception() if state.outcome else None
        self._failures += not (isinstance(failure, FailedAttempt) and failure.throttled)
        late = (state.seconds_since_start or 0.0) >= self._options.patience
        return late or self._failures >= self._options.tries
