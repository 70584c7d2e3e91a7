"""Asks a model one question until an answer can be used.

A question that is asked again tells the model, in our words, all that was wrong with its earlier answers. So each try
is a different request, whose answer is stored by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from drift_data.llm.request import DECLINED, INVALID, LENGTH, Answer, Request, Sampling

AnswerType = TypeVar("AnswerType")


class UnusableAnswer(Exception):
    """An answer cannot be used.

    Args:
        kind: one of few values, because answers are counted by kind.
        text: what was wrong, as the next request tells the model.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class Question(Generic[AnswerType]):
    """A `Task` that ends with an `answer` or with a `failure`.

    Args:
        ask: makes a request from the model's parameters and what was wrong with earlier answers.
        read: turns the text of an answer into what was asked for, or raises `UnusableAnswer`.
        sampling: model and parameters of the first request; after a cut-off answer `max_tokens` is doubled.
        tries: most answers that are asked for.
        faults: what the first request already says was wrong.
    """

    is_needed = False  # a rubric can be learned without this answer; `Fold` is needed itself

    def __init__(
        self,
        ask: Callable[[Sampling, Sequence[str]], Request],
        read: Callable[[str], AnswerType],
        sampling: Sampling,
        tries: int,
        faults: Sequence[str] = (),
    ) -> None:
        self.answer: AnswerType | None = None
        self.failure: tuple[str, str | None] | None = None  # reason and detail
        self._ask, self._read, self._sampling, self._tries = ask, read, sampling, tries
        self._faults = list(faults)
        self._request: Request | None = ask(sampling, faults)
        self.key = self._request.key  # key of the last request

    @property
    def request(self) -> Request | None:
        """Return what to ask next; None once there is an `answer` or a `failure`."""
        return self._request

    def receive(self, answer: Answer) -> None:
        """Keep an answer that can be used; after one that cannot, ask again while tries are left."""
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
                raise UnusableAnswer("truncated", "it was cut off")
            self.answer = self._read(answer.text)
        except UnusableAnswer as fault:
            self._faults.append(fault.text)
            if self._tries > 0:
                self._request = self._ask(self._sampling, self._faults)
                self.key = self._request.key
            else:
                self.failure = (INVALID, fault.kind)
