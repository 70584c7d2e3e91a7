"""One question to a model, asked until an answer can be used. It knows not what is asked.

A question that is asked again says all that was wrong before, in our words: so it is another request each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from drift_data.llm.request import DECLINED, INVALID, LENGTH, Answer, Request, Sampling

T = TypeVar("T")


class Unusable(Exception):
    """An answer that cannot be used.

    Args:
        kind: few distinct values: they are counted.
        text: how the next request says it.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class Question(Generic[T]):
    """A `Task`: ends with an `answer` or with a `failure`.

    Args:
        ask: makes the request, given model and parameters and what was wrong with earlier answers.
        read: turns the text of an answer into what was asked for, or raises `Unusable`.
        sampling: model and parameters of the first request; after a cut-off answer the limit is doubled.
        tries: answers that are asked for at most.
        faults: what is known to be wrong before the first request.
    """

    is_needed = False

    def __init__(
        self,
        ask: Callable[[Sampling, Sequence[str]], Request],
        read: Callable[[str], T],
        sampling: Sampling,
        tries: int,
        faults: Sequence[str] = (),
    ) -> None:
        self.answer: T | None = None
        self.failure: tuple[str, str | None] | None = None  # reason and detail
        self._ask, self._read, self._sampling, self._tries = ask, read, sampling, tries
        self._faults = list(faults)
        self._request: Request | None = ask(sampling, faults)
        self.key = self._request.key  # of the last request

    @property
    def request(self) -> Request | None:
        """Return what to ask next; None when there is an answer or no hope of one."""
        return self._request

    def receive(self, answer: Answer) -> None:
        """Take an answer that can be used; else ask again, while tries are left."""
        self._request, self._tries = None, self._tries - 1
        if answer.error is not None:
            self.failure = (answer.error, answer.detail)
            return
        if answer.finish_reason in DECLINED:
            self.failure = (DECLINED[answer.finish_reason], None)
            return
        try:
            if answer.finish_reason == LENGTH:
                limit = self._sampling.max_tokens * 2
                self._sampling = self._sampling.model_copy(update={"max_tokens": limit})
                raise Unusable("truncated", "it was cut off")
            self.answer = self._read(answer.text)
        except Unusable as fault:
            self._faults.append(fault.text)
            if self._tries > 0:
                self._request = self._ask(self._sampling, self._faults)
                self.key = self._request.key
            else:
                self.failure = (INVALID, fault.kind)
