"""The interface between those who ask (a judge, the rubric learner) and those who send (server, vLLM, batch files).

A task is a short exchange: it says what to ask, takes the answer, and may ask again. A backend drives many
tasks at once, in any order, takes what the store already has from there, and stores what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from drift_data.llm.cost import Meter
from drift_data.llm.request import Answer, Request
from drift_data.llm.store import Store


class Task(Protocol):
    """An exchange with a model: ask, take the answer, perhaps ask again."""

    @property
    def request(self) -> Request | None:
        """What to ask next; None when the task is finished."""

    def receive(self, answer: Answer) -> None:
        """Take the answer to `request` and decide on the next one. An answer with `error` ends the task."""


class Needed:
    """Marks a task without whose answers the run comes to nothing: it is asked even where others are given up."""


T = TypeVar("T", bound=Task)


class Backend(Protocol):
    """Sends requests to a model."""

    @property
    def kind(self) -> str:
        """How: "openai", "vllm", "batch"."""

    def run(self, tasks: Iterable[T]) -> Iterator[T]:
        """Drive tasks to their end and yield each one finished, in any order.

        Takes tasks as it has room for them, so that any number may come. Two equal requests in flight are
        sent once.
        """

    def report(self) -> Mapping[str, Any]:
        """Return what it took for the manifest: requests sent and found in the store, tokens, price."""

    def close(self) -> None:
        """Give up what is on its way and let go of what it holds."""


def feed_from_store(task: Task, store: Store, meter: Meter) -> bool:
    """Give a task the answers that the store has; say whether it is finished."""
    while (request := task.request) is not None:
        answer = store.get(request.key)
        if answer is None:
            return False
        meter.found(answer)
        task.receive(answer)
    return True
