"""The backend for OpenAI-compatible servers: many requests at once, from one thread. `sender` does the HTTP."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, cast

from drift_data.llm.backend import AnyTask, feed_from_store
from drift_data.llm.cost import Spending
from drift_data.llm.live.concurrency import Limiter
from drift_data.llm.options import ClientOptions, ServerOptions
from drift_data.llm.request import Answer, Request
from drift_data.llm.store import Store

if TYPE_CHECKING:
    from drift_data.llm.live.sender import Sender

_TASKS_PER_CONNECTION: Final = 2  # tasks held at once for each connection: some wait before their next try
_MAX_FED_AT_ONCE: Final = 100  # tasks finished from the store alone before the event loop gets its turn


class Client:
    """A `Backend` that talks to a server.

    Args:
        store: keeps the answers.
        spending: counts tokens and money.
        server: where the model is.
        options: how many requests at once, and how patiently.
    """

    kind = "openai"

    def __init__(
        self, store: Store, spending: Spending, server: ServerOptions, options: ClientOptions
    ) -> None:
        self._store, self._spending, self._server, self._options = store, spending, server, options
        self._limiter = Limiter(options.connections)
        self._failures: Counter[str] = Counter()
        self._run: Generator[Any, None, None] | None = None

    def run(self, tasks: Iterable[AnyTask]) -> Iterator[AnyTask]:
        """Drive tasks, and yield each when it is finished.

        Raises:
            UserError: the key is missing or refused, the model unknown, the account empty, or the server gone.
        """
        self._run = run = self._drive(iter(tasks))
        return run

    def report(self) -> Mapping[str, Any]:
        """Return requests, tokens and price, failed attempts by reason, and the most requests at once."""
        return {
            **self._spending.report(),
            "server": {
                "base_url": self._server.url,
                "failed_attempts": dict(self._failures.most_common()),
                "most_at_once": self._limiter.most_taken,
            },
        }

    def close(self) -> None:
        """Give up the requests on their way and close all connections."""
        if self._run is not None:
            self._run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drive(self, source: Iterator[AnyTask]) -> Generator[AnyTask, None, None]:
        """Take tasks while there is room, and yield the finished ones.

        The event loop runs in this thread, and only while this generator is asked for its next task.
        """
        options = self._options
        sender: Sender | None = None
        with asyncio.Runner() as runner:
            in_flight = _InFlight[AnyTask](self._store, self._spending)
            has_more = True
            try:
                while has_more or in_flight.size:
                    fed = 0
                    while (
                        has_more
                        and fed < _MAX_FED_AT_ONCE
                        and in_flight.size < _TASKS_PER_CONNECTION * options.connections
                    ):
                        task = next(source, None)
                        if task is None:
                            has_more = False
                        elif feed_from_store(task, self._store, self._spending):
                            fed += 1
                            yield task
                        else:
                            sender = sender or self._connect()
                            with _delay_interrupt(lambda: None):
                                in_flight.add(task, sender, runner.get_loop())
                    if in_flight.size:
                        with _delay_interrupt(lambda: runner.get_loop().call_soon_threadsafe(in_flight.wake)):
                            finished = runner.run(in_flight.take_finished(wait=fed < _MAX_FED_AT_ONCE))
                        yield from finished
                if sender is not None:
                    sender.finish()
            finally:
                if sender is not None:
                    with _delay_interrupt(lambda: None):
                        runner.run(_shut_down(in_flight, sender))

    def _connect(self) -> Sender:
        """Make the sender. This waits until there is something to send, because its imports take a second."""
        from drift_data.llm.live.sender import Sender

        return Sender(self._store, self._spending, self._server, self._options, self._limiter, self._failures)


async def _shut_down(in_flight: _InFlight[Any], sender: Sender) -> None:
    """Give up the requests on their way and close all connections."""
    await in_flight.cancel_all()
    await sender.close()


@contextmanager
def _delay_interrupt(notice: Callable[[], object]) -> Iterator[None]:
    """Raise an interrupt (Ctrl-C) only when the block ends. The block hands work to the event loop or runs the loop.

    asyncio's own handler cancels the coroutine that the loop runs. Where that coroutine has just ended, the handler
    raises in the midst of whatever the loop does then, which leaves the loop and the connections broken.

    Args:
        notice: called at once when an interrupt comes, so that the block ends soon.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = False

    def keep(*_: object) -> None:
        nonlocal came
        came = True
        notice()

    signal.signal(signal.SIGINT, keep)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


class _InFlight(Generic[AnyTask]):
    """The tasks that wait for answers. Equal requests are sent once: all their tasks wait for the same answer."""

    def __init__(self, store: Store, spending: Spending) -> None:
        self._store, self._spending = store, spending
        self._running: set[asyncio.Task[None]] = set()  # one coroutine for each task that is not finished
        self._finished: list[AnyTask] = []
        self._error: BaseException | None = None  # ends the run
        self._changed = asyncio.Event()  # a task is finished, or the run has to end
        # Key of a request on its way → its answer to come.
        self._coming: dict[str, asyncio.Future[Answer]] = {}

    @property
    def size(self) -> int:
        """Return how many tasks there are, including finished ones that `take_finished` has not returned yet."""
        return len(self._running) + len(self._finished)

    def add(self, task: AnyTask, sender: Sender, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to drive a task."""
        self._running.add(loop.create_task(self._drive(task, sender)))

    def wake(self) -> None:
        """End the wait in `take_finished`, even when no task is finished."""
        self._changed.set()

    async def take_finished(self, *, wait: bool) -> list[AnyTask]:
        """Take the tasks that are finished; with `wait`, at least one, unless `wake` is called.

        Raises:
            UserError: the run has to end, for a reason that `Client.run` lists.
        """
        if wait:
            await self._changed.wait()
        else:
            await asyncio.sleep(0)
        if self._error is not None:
            raise self._error
        self._changed.clear()
        finished, self._finished = self._finished, []
        return finished

    async def cancel_all(self) -> None:
        """Give up all tasks that are not finished."""
        running = list(self._running)
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _drive(self, task: AnyTask, sender: Sender) -> None:
        """Send what a task asks until the task is finished."""
        try:
            while (request := task.request) is not None:
                task.receive(await self._answer(request, sender))
                if feed_from_store(task, self._store, self._spending):
                    break
            self._finished.append(task)
        except Exception as error:
            self._error = self._error or error
        finally:
            self._running.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            self._changed.set()

    async def _answer(self, request: Request, sender: Sender) -> Answer:
        """Return the answer to a request. If an equal request is on its way, wait for its answer instead of sending."""
        key = request.key
        if key in self._coming:
            answer = await asyncio.shield(self._coming[key])
            if answer.error is None:
                # The first of the equal requests has counted the price.
                self._spending.record_cached(replace(answer, price=0))
            return answer
        coming = self._coming[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await sender.ask(request)
        except BaseException:
            coming.cancel()
            raise
        finally:
            del self._coming[key]
        coming.set_result(answer)
        return answer
