"""Phase 2, the running fold: batch by batch, the reasons of one polarity become a short list of items."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from drift_data.judge.rubric import RubricItem
from drift_data.llm.request import INVALID, Answer, Request, Sampling
from drift_data.rubric.answer import read_items, taken_names
from drift_data.rubric.options import LearnOptions
from drift_data.rubric.prompt import Prompts
from drift_data.rubric.question import Question

Items = tuple[RubricItem, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One batch of reasons worked in."""

    number: int  # from 1
    reasons: Sequence[str]
    before: Items
    after: Items
    problem: str | None  # why the batch changed nothing
    key: str  # of the request


class Fold:
    """A `Task`: one request a batch, each with the items that came out of the one before.

    A batch that gets no answer that can be used is passed over, and the items stay as they were. A request
    that fails for another reason ends the fold with a `failure`.
    """

    is_needed = True  # without the folds there is no rubric

    def __init__(
        self,
        polarity: str,
        reasons: Sequence[str],
        prompts: Prompts,
        sampling: Sampling,
        options: LearnOptions,
    ) -> None:
        self.polarity = polarity
        self.items: Items = ()
        self.steps: list[Step] = []
        self.failure: tuple[str, str | None] | None = None
        self._prompts, self._sampling, self._options = prompts, sampling, options
        size = options.batch
        self.batches = [reasons[start : start + size] for start in range(0, len(reasons), size)]
        self._taken: Collection[str] = ()
        self._number = 0
        self._so_far: Items = ()
        self._question: Question[Items] | None = None
        self._next()

    @property
    def request(self) -> Request | None:
        """Return what to ask next; None when all batches are worked in or one has failed."""
        return self._question.request if self._question else None

    def receive(self, answer: Answer) -> None:
        """Take an answer; when it ends a step, go on to the next one."""
        question = self._question
        assert question is not None
        question.receive(answer)
        if question.request is not None:
            return
        self._question = None
        reason, problem = question.failure or (None, None)
        if reason is not None and reason != INVALID:
            self.failure = (reason, problem)
            return
        self.items = question.answer or self.items
        after = question.answer or self._so_far
        reasons = self.batches[self._number - 1]
        self.steps.append(Step(self._number, reasons, self._so_far, after, problem, question.key))
        self._next()

    def rename(self, taken: Collection[str]) -> None:
        """Ask once more for the last step that changed the items: names that are taken have to go.

        Args:
            taken: names in lower case; some of them are among the items.
        """
        clash = [item.name for item in self.items if item.name.lower() in taken]
        last = next(step for step in reversed(self.steps) if step.problem is None)
        self._taken, self._number = taken, last.number
        self._ask(last.before, [taken_names(clash)])

    def _next(self) -> None:
        if self._number < len(self.batches):
            self._number += 1
            self._ask(self.items)

    def _ask(self, so_far: Items, faults: Sequence[str] = ()) -> None:
        reasons, options, self._so_far = self.batches[self._number - 1], self._options, so_far
        source = "\n".join([*reasons, *(f"{item.name} {item.definition}" for item in so_far)])

        used = {step.number: len(step.reasons) for step in self.steps if step.problem is None}
        covered = sum(size for number, size in used.items() if number < self._number)

        def ask(sampling: Sampling, faults: Sequence[str]) -> Request:
            return self._prompts.fold(self.polarity, so_far, covered, reasons, sampling, faults)

        def read(text: str) -> Items:
            return read_items(text, self.polarity, options.items, self._taken, source)

        self._question = Question(ask, read, self._sampling, options.tries, faults)
