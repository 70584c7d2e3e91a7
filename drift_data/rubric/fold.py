"""Phase 2, the running fold: turns the reasons of one polarity, batch by batch, into a short list of items."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from drift_data.judge.rubric import RubricItem
from drift_data.llm.request import INVALID, Answer, Request, Sampling
from drift_data.rubric.answer import explain_taken_names, read_items
from drift_data.rubric.options import LearnOptions
from drift_data.rubric.prompt import RubricPrompts
from drift_data.rubric.question import Question

RubricItems = tuple[RubricItem, ...]


@dataclass(frozen=True, slots=True)
class FoldStep:
    """One batch of reasons that was worked into the items."""

    number: int  # from 1
    reasons: Sequence[str]
    before: RubricItems
    after: RubricItems
    problem: str | None  # why the batch changed nothing; None: it was used
    key: str  # key of the step's last request


class Fold:
    """A `Task` with one step for each batch of reasons; each step starts with the items of the step before.

    A batch without a usable answer is skipped, and the items stay as they were. A request that fails for another
    reason ends the fold with a `failure`.

    Args:
        polarity: SAT or DSAT.
        reasons: all reasons of that polarity, in order.
        prompts: makes the requests.
        sampling: model and parameters.
        options: reasons in a batch, most items, most tries.
    """

    is_needed = True  # without the folds there is no rubric

    def __init__(
        self,
        polarity: str,
        reasons: Sequence[str],
        prompts: RubricPrompts,
        sampling: Sampling,
        options: LearnOptions,
    ) -> None:
        self.polarity = polarity
        self.items: RubricItems = ()
        self.steps: list[FoldStep] = []
        self.failure: tuple[str, str | None] | None = None  # reason and detail
        self._prompts, self._sampling, self._options = prompts, sampling, options
        size = options.batch
        self.batches = [reasons[start : start + size] for start in range(0, len(reasons), size)]
        self._taken: Collection[str] = ()  # names, in lower case, of the other polarity's items
        self._number = 0  # of the present step, from 1
        self._items_before: RubricItems = ()  # items before the present step
        self._question: Question[RubricItems] | None = None
        self._start_next_step()

    @property
    def request(self) -> Request | None:
        """Return what to ask next; None when all batches are worked in, or the fold has failed."""
        return self._question.request if self._question else None

    def receive(self, answer: Answer) -> None:
        """Take an answer; if it ends the present step, start the next one."""
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
        after = question.answer or self._items_before
        reasons = self.batches[self._number - 1]
        self.steps.append(FoldStep(self._number, reasons, self._items_before, after, problem, question.key))
        self._start_next_step()

    def rename(self, taken: Collection[str]) -> None:
        """Repeat the last step that changed the items, and ask for other names.

        Args:
            taken: names of the other polarity's items, in lower case; some items of this fold have the same names.
        """
        clash = [item.name for item in self.items if item.name.lower() in taken]
        last = next(step for step in reversed(self.steps) if step.problem is None)
        self._taken, self._number = taken, last.number
        self._ask_for(last.before, [explain_taken_names(clash)])

    def _start_next_step(self) -> None:
        if self._number < len(self.batches):
            self._number += 1
            self._ask_for(self.items)

    def _ask_for(self, so_far: RubricItems, faults: Sequence[str] = ()) -> None:
        """Make the question that works the present step's batch of reasons into the items `so_far`."""
        reasons, options, self._items_before = self.batches[self._number - 1], self._options, so_far
        source = "\n".join([*reasons, *(f"{item.name} {item.definition}" for item in so_far)])

        used = {step.number: len(step.reasons) for step in self.steps if step.problem is None}
        covered = sum(size for number, size in used.items() if number < self._number)

        def ask(sampling: Sampling, faults: Sequence[str]) -> Request:
            return self._prompts.make_fold(self.polarity, so_far, covered, reasons, sampling, faults)

        def read(text: str) -> RubricItems:
            return read_items(text, self.polarity, options.items, self._taken, source)

        self._question = Question(ask, read, self._sampling, options.tries, faults)
