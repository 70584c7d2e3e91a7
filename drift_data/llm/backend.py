"""The interface between those who ask a model (a judge, rubric learning) and those who send (server, vLLM, batch files).

A task is a short exchange with the model: it says what to ask, takes the answer, and may ask again. A backend drives
many tasks at once, in any order. It gives them the answers that the store already has, and stores the new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from drift_data.llm.cost import Spending
from drift_data.llm.request import Answer, Request
from drift_data.llm.store import Store


class Task(Protocol):
    """An exchange with a model: ask, take the answer, perhaps ask again."""

    @property
    def is_needed(self) -> bool:
        """Say whether the run has no result without this task. FINAL=1 gives up all other tasks, but not this one."""

    @property
    def request(self) -> Request | None:
        """Return what to ask next; None when the task is finished."""

    def receive(self, answer: Answer) -> None:
        """Take the answer to `request` and decide on the next one. An answer with `error` ends the task."""


AnyTask = TypeVar("AnyTask", bound=Task)


class Backend(Protocol):
    """Sends requests to a model."""

    @property
    def kind(self) -> str:
        """Return how requests travel: "openai", "vllm" or "batch"."""

    def run(self, tasks: Iterable[AnyTask]) -> Iterator[AnyTask]:
        """Drive tasks to their end and yield each one finished, in any order.

        Tasks are taken one by one as there is room for them, so there may be any number. If two tasks
        ask the same at the same time, one request is sent, and both tasks get its answer.
        """

    def report(self) -> Mapping[str, Any]:
        """Return what the run took, for the manifest: requests sent and found in the store, tokens, price."""

    def close(self) -> None:
        """Give up the requests that are on their way, and free connections, files and memory."""


def feed_from_store(task: Task, store: Store, spending: Spending) -> bool:
    """Give a task the answers that the store has; say whether the task is then finished."""
    while (request := task.request) is not None:
        answer = store.get(request.key)
        if answer is None:
            return False
        spending.record_cached(answer)
        task.receive(answer)
    return True
