"""Tasks and a client for tests of the request layer: questions that are asked once, or until an answer is liked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drift_data.llm.cost import Spending
from drift_data.llm.live.client import Client
from drift_data.llm.options import ClientOptions, ServerOptions
from drift_data.llm.request import Answer, Request, Sampling
from drift_data.llm.store import STORE_FILE, Store

SYSTEM = "Answer briefly."


def request(user: str, system: str = SYSTEM, **sampling: Any) -> Request:
    return Request(system, user, Sampling(**{"model": "test", "max_tokens": 100, **sampling}), purpose="test")


class Question:
    """A task that asks again, in other words, until `good` likes an answer."""

    is_needed = False

    def __init__(
        self, user: str, good: Callable[[Answer], bool] = lambda answer: True, **sampling: Any
    ) -> None:
        self.user, self.good, self.sampling = user, good, sampling
        self.answers: list[Answer] = []
        self.request: Request | None = request(user, **sampling)

    def receive(self, answer: Answer) -> None:
        self.answers.append(answer)
        fine = answer.error is not None or self.good(answer)
        self.request = None if fine else request(f"{self.user} (again)", **self.sampling)

    @property
    def answer(self) -> Answer:
        return self.answers[-1]


def questions(number: int) -> Iterator[Question]:
    return (Question(f"question {place}") for place in range(number))


@contextmanager
def client(base_url: str, folder: Path, spending: Spending | None = None, **options: Any) -> Iterator[Client]:
    """Yield a client that waits only milliseconds between tries, with its store in a folder."""
    quick = {"first_wait": 0.01, "longest_wait": 0.05, "timeout": 5.0, **options}
    with (
        Store(folder / STORE_FILE) as store,
        Client(
            store, spending or Spending(), ServerOptions(base_url=base_url), ClientOptions(**quick)
        ) as made,
    ):
        yield made
