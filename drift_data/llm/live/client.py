"""The backend for OpenAI-compatible servers: many requests at once, from one thread. It knows no HTTP itself."""

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

from drift_data.llm.backend import T, feed_from_store
from drift_data.llm.cost import Meter
from drift_data.llm.live.concurrency import Limiter
from drift_data.llm.live.options import ClientOptions
from drift_data.llm.request import Answer, Request
from drift_data.llm.server import ServerOptions
from drift_data.llm.store import Store

if TYPE_CHECKING:
    from drift_data.llm.live.sender import Sender

_ROOM: Final = 2  # tasks held at once, as a multiple of the connections: some wait for another try
_FED: Final = 100  # tasks fed from the store before answers on their way are looked after


class Client:
    """A `Backend` that talks to a server.

    Args:
        store: keeps the answers.
        meter: counts tokens and money.
        server: where it is.
        options: see there.
    """

    kind = "openai"

    def __init__(self, store: Store, meter: Meter, server: ServerOptions, options: ClientOptions) -> None:
        self._store, self._meter, self._server, self._options = store, meter, server, options
        self._limiter = Limiter(options.connections)
        self._failures: Counter[str] = Counter()
        self._run: Generator[Any, None, None] | None = None

    def run(self, tasks: Iterable[T]) -> Iterator[T]:
        """Drive tasks, and yield each when it is finished.

        Raises:
            UserError: the key is missing or refused, the model unknown, the account empty, or the server gone.
        """
        self._run = run = self._drive(iter(tasks))
        return run

    def report(self) -> Mapping[str, Any]:
        """Return requests, tokens and price, failed attempts by reason, and the most requests at once."""
        return {
            **self._meter.report(),
            "server": {
                "base_url": self._server.url,
                "failed_attempts": dict(self._failures.most_common()),
                "most_at_once": self._limiter.highest,
            },
        }

    def close(self) -> None:
        """Give up what is on its way and close all connections."""
        if self._run is not None:
            self._run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _drive(self, source: Iterator[T]) -> Generator[T, None, None]:
        """Take tasks while there is room, and yield the finished ones.

        The event loop runs in this thread, and only while this generator is asked for its next task.
        """
        options = self._options
        sender: Sender | None = None
        with asyncio.Runner() as runner:
            crowd = _Crowd[T](self._store, self._meter)
            more = True
            try:
                while more or crowd.size:
                    fed = 0
                    while more and fed < _FED and crowd.size < _ROOM * options.connections:
                        task = next(source, None)
                        if task is None:
                            more = False
                        elif feed_from_store(task, self._store, self._meter):
                            fed += 1
                            yield task
                        else:
                            sender = sender or self._connect()
                            with _late_interrupt(lambda: None):
                                crowd.add(task, sender, runner.get_loop())
                    if crowd.size:
                        with _late_interrupt(lambda: runner.get_loop().call_soon_threadsafe(crowd.wake)):
                            finished = runner.run(crowd.finished(wait=fed < _FED))
                        yield from finished
                if sender is not None:
                    sender.finish()
            finally:
                if sender is not None:
                    with _late_interrupt(lambda: None):
                        runner.run(_end(crowd, sender))

    def _connect(self) -> Sender:
        """Return what sends: only once there is something to send, for its imports take a second."""
        from drift_data.llm.live.sender import Sender

        return Sender(self._store, self._meter, self._server, self._options, self._limiter, self._failures)


async def _end(crowd: _Crowd[Any], sender: Sender) -> None:
    """Give up what is on its way and close all connections."""
    await crowd.disperse()
    await sender.close()


@contextmanager
def _late_interrupt(notice: Callable[[], object]) -> Iterator[None]:
    """Raise an interrupt (Ctrl-C) only when the block ends, which hands work to the event loop or runs it.

    asyncio's own handler cancels the coroutine that the loop runs, and where that has just ended it raises in
    the midst of whatever the loop does then, which leaves the loop and the connections broken.

    Args:
        notice: called at once, so that the block ends soon.
    """
    first = threading.current_thread() is threading.main_thread()
    if not first or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
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


class _Crowd(Generic[T]):
    """The tasks that wait for answers; of equal requests only the first is sent."""

    def __init__(self, store: Store, meter: Meter) -> None:
        self._store, self._meter = store, meter
        self._going: set[asyncio.Task[None]] = set()
        self._finished: list[T] = []
        self._error: BaseException | None = None
        self._news = asyncio.Event()
        self._asked: dict[str, asyncio.Future[Answer]] = {}

    @property
    def size(self) -> int:
        """Return how many tasks there are, finished ones that nobody has taken included."""
        return len(self._going) + len(self._finished)

    def add(self, task: T, sender: Sender, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to drive a task."""
        self._going.add(loop.create_task(self._drive(task, sender)))

    def wake(self) -> None:
        """Have `finished` wait no longer, even when nothing is."""
        self._news.set()

    async def finished(self, *, wait: bool) -> list[T]:
        """Return the tasks that are finished; with `wait`, at least one, unless woken.

        Raises:
            UserError: there is no point in going on.
        """
        if wait:
            await self._news.wait()
        else:
            await asyncio.sleep(0)
        if self._error is not None:
            raise self._error
        self._news.clear()
        finished, self._finished = self._finished, []
        return finished

    async def disperse(self) -> None:
        """Give up all tasks."""
        going = list(self._going)
        for one in going:
            one.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    async def _drive(self, task: T, sender: Sender) -> None:
        """Ask what a task asks until it is finished."""
        try:
            while (request := task.request) is not None:
                task.receive(await self._answer(request, sender))
                if feed_from_store(task, self._store, self._meter):
                    break
            self._finished.append(task)
        except Exception as error:
            self._error = self._error or error
        finally:
            self._going.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            self._news.set()

    async def _answer(self, request: Request, sender: Sender) -> Answer:
        key = request.key
        if key in self._asked:
            answer = await asyncio.shield(self._asked[key])
            if answer.error is None:
                self._meter.found(replace(answer, price=0))  # it has been counted
            return answer
        coming = self._asked[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await sender.ask(request)
        except BaseException:
            coming.cancel()
            raise
        finally:
            del self._asked[key]
        coming.set_result(answer)
        return answer
