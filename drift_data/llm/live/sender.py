"""Sends a request to an OpenAI-compatible server until it is answered, given up, or ends the run.

An answer is in the store before its place at the server is handed on. So whatever moment the process is killed
at, no more requests are asked again than were on their way.
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
from typing import TYPE_CHECKING, Final

import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from drift_data.llm.cost import Meter
from drift_data.llm.live.concurrency import Limiter
from drift_data.llm.live.errors import NO_CONNECTION, Failure, Faults
from drift_data.llm.request import Answer, Dialect, Request
from drift_data.llm.response import PROMPT_TOO_LONG, Completion
from drift_data.llm.server import ServerOptions
from drift_data.llm.store import Store

if TYPE_CHECKING:
    from drift_data.llm.live.options import ClientOptions

KIND: Final = "openai"
_CONNECT: Final = 10.0  # seconds to reach the server
_KEEP_ALIVE: Final = 4.0  # seconds; less than the 5 after which most servers close an idle connection
_PATIENT: Final = 10  # times the breaker, once it is known that the server does answer such requests


class Sender:
    """The connection to a server, and what has become of the requests.

    Args:
        store: gets the answers.
        meter: counts tokens and money.
        server: where it is.
        options: see there.
        limiter: hands out places at the server.
        failures: gets the failed attempts, by reason.
    """

    def __init__(
        self,
        store: Store,
        meter: Meter,
        server: ServerOptions,
        options: ClientOptions,
        limiter: Limiter,
        failures: Counter[str],
    ) -> None:
        self._store, self._meter, self._options = store, meter, options
        self._limiter, self._failures = limiter, failures
        key = server.key()
        self._faults = Faults(server, key, options.patience)
        self._dialect: Dialect = "openai" if server.at_openai else "compatible"
        self._answered = self._failed_in_a_row = 0
        self._last_failure: Failure | None = None
        self._ended: Exception | None = None
        self._purse, self._settled = asyncio.Lock(), asyncio.Event()
        timeout = httpx2.Timeout(options.timeout, connect=min(_CONNECT, options.timeout))
        limits = httpx2.Limits(max_connections=options.connections, keepalive_expiry=_KEEP_ALIVE)
        self._client = AsyncOpenAI(
            api_key=key,
            base_url=server.url,
            max_retries=0,
            timeout=timeout,
            http_client=DefaultAioHttpClient(
                timeout=timeout,
                limits=limits,
                verify=_certificates(),
                event_hooks={"request": [self._take_place]},
            ),
        )
        self._wait = wait_random_exponential(multiplier=options.first_wait, max=options.longest_wait)

    async def ask(self, request: Request) -> Answer:
        """Return the answer to a request, stored, or why there is none.

        Raises:
            UserError: there is no point in asking further.
        """
        if not await self._affords(request):
            return Answer(error="over_budget")
        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, Failure) and error.again),
            wait=self._wait,
            stop=_Stop(self._options),
            reraise=True,
        )
        try:
            answer: Answer = await retrying(self._attempt, request)
            self._answered, self._failed_in_a_row = self._answered + 1, 0
        except Failure as failure:
            answer = failure.answer
            self._count(failure)
        except Exception as error:
            self._ended = error
            raise
        self._meter.settle(request, answer)
        self._settled.set()
        return answer

    def finish(self) -> None:
        """Say at the end of a run, in which no request was answered, why.

        Raises:
            UserError: the server was never there, or has never answered such a request.
        """
        failure = self._last_failure
        never_there = failure is not None and failure.reason == NO_CONNECTION
        if failure and not self._answered and (never_there or not self._meter.stored):
            raise self._faults.end(failure, self._failed_in_a_row)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _affords(self, request: Request) -> bool:
        """Set the price of a request aside, when need be after others have been answered and cost less."""
        meter = self._meter
        if meter.budget is None:
            return True
        async with self._purse:
            while not meter.reserve(request):
                if not meter.waiting:
                    meter.over_budget += 1
                    return False
                self._settled.clear()
                await self._settled.wait()
        return True

    async def _attempt(self, request: Request) -> Answer:
        """Send a request once; its answer is stored before its place is given back."""
        place = _Place(asyncio.timeout(None))
        _PLACE.set(place)
        try:
            answer = await self._post(request, place)
            answer = replace(answer, price=self._meter.priced(answer))
            self._store.put(request, answer, backend=KIND, seconds=time.monotonic() - (place.taken or 0.0))
        except BaseException as error:
            self._give_back(place, error)
            raise
        self._limiter.answered()
        return answer

    def _give_back(self, place: _Place, error: BaseException) -> None:
        """Give a place back after a failure, if it had been taken."""
        if isinstance(error, Failure):
            self._failures[error.reason] += 1
        if place.taken is None:
            return
        if isinstance(error, Failure) and error.busy:
            self._limiter.refused(place.taken, error.wait)
        else:
            self._limiter.failed()

    async def _post(self, request: Request, place: _Place) -> Answer:
        response = await self._response(request, place)
        if isinstance(response, Exception):
            # Not where it is caught: the client's errors hold headers, and these the key.
            outcome = self._faults.of(response, request.sampling.model)
            if isinstance(outcome, Failure):
                raise outcome
            return outcome
        try:
            completion = Completion.model_validate_json(response.content)
        except ValidationError:
            raise Failure("no chat completion", self._faults.shown(response.text)) from None
        answer = completion.answer()
        if completion.aborted:
            raise Failure(f"finish_reason {answer.finish_reason}", self._faults.shown(answer.text))
        if completion.usage is None:
            answer = self._meter.counted(request, answer)
        return answer

    async def _response(self, request: Request, place: _Place) -> httpx2.Response | Exception:
        # As bytes, and without the client's own models of requests and answers: these halve its speed.
        body = json.dumps(request.body(self._dialect), ensure_ascii=False).encode("utf-8", "replace")
        try:
            async with place.timeout:
                return await self._client.post(
                    "/chat/completions",
                    cast_to=httpx2.Response,
                    content=body,
                    options={"headers": {"Content-Type": "application/json"}},
                )
        except Exception as error:
            return error

    async def _take_place(self, _: httpx2.Request) -> None:
        """Wait for a place: when the HTTP request is made and has only to be sent, so that none stands idle."""
        place = _PLACE.get()
        if place.taken is None:  # else it is sent again, elsewhere: a redirect
            place.taken = await self._limiter.take()
            place.timeout.reschedule(asyncio.get_running_loop().time() + self._options.timeout)
            if self._ended is not None:
                raise self._ended  # before those who wait hear of it, places come free

    def _count(self, failure: Failure) -> None:
        """Take a request's failure for good down, and end the run when there are too many in a row."""
        if failure.error == PROMPT_TOO_LONG:
            return
        self._last_failure, self._failed_in_a_row = failure, self._failed_in_a_row + 1
        # Requests that fail by themselves are asked last, run after run, and must not end each of them.
        known = (self._answered or self._meter.stored) and not failure.unreachable
        if self._failed_in_a_row >= self._options.breaker * (_PATIENT if known else 1):
            self._ended = self._faults.end(failure, self._failed_in_a_row)
            raise self._ended


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Return what servers are checked by; reading it takes a tenth of a second."""
    return httpx2.create_ssl_context()


@dataclass
class _Place:
    """The place of a request at the server, and how long it may keep it."""

    timeout: asyncio.Timeout
    taken: float | None = None  # when


_PLACE: ContextVar[_Place] = ContextVar("place")  # of the attempt that this coroutine makes


class _Stop:
    """Says when to try no more: after some tries, those not counted that the server put off, or some time."""

    def __init__(self, options: ClientOptions) -> None:
        self._options, self._faults = options, 0

    def __call__(self, state: RetryCallState) -> bool:
        failure = state.outcome.exception() if state.outcome else None
        self._faults += not (isinstance(failure, Failure) and failure.throttled)
        late = (state.seconds_since_start or 0.0) >= self._options.patience
        return late or self._faults >= self._options.tries
