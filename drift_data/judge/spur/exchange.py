"""The exchange with the model over one window: ask, check the answer, ask again for what cannot be used."""

from __future__ import annotations

from drift_data.judge.rubric import Rubric
from drift_data.judge.spur.answer import TurnAnswer, read_answer
from drift_data.judge.spur.prompt import Prompts
from drift_data.judge.spur.windows import Window
from drift_data.llm.request import DECLINED, INVALID, LENGTH, Answer, Request, Sampling


class Exchange:
    """A `Task`: judges the turns of one window.

    Args:
        window: what to judge; without turns there is nothing to ask, and the exchange is over.
        prompts: makes the requests.
        rubric: the items that an answer may name.
        sampling: model and parameters of the first request; after a cut-off answer the limit is doubled.
        tries: answers that are asked for at most.
    """

    is_needed = False  # a turn may stay without a label

    def __init__(
        self, window: Window, prompts: Prompts, rubric: Rubric, sampling: Sampling, tries: int
    ) -> None:
        self.answers: dict[int, TurnAnswer] = {}
        self.unlabelled: dict[int, tuple[str, str | None]] = {}  # turn → reason and detail
        self._window, self._prompts, self._sampling = window, prompts, sampling
        self._items = rubric.polarities
        self._texts, self._tries, self._attempt = prompts.shown(window), tries, 1
        self._open = {turn: self._texts[turn] for turn in window.turns}
        self._request: Request | None = None
        if self._open:
            self._request = prompts.request(window, self._texts, self._open, sampling)

    @property
    def request(self) -> Request | None:
        """Return what to ask next; None when each turn has an answer or a reason why not."""
        return self._request

    @property
    def turns(self) -> int:
        """Return how many turns are still open."""
        return len(self._open)

    def receive(self, answer: Answer) -> None:
        """Take what is usable of an answer; ask for the rest again, while tries are left."""
        self._request, self._attempt = None, self._attempt + 1
        if answer.error is not None:
            return self._give_up(answer.error, answer.detail)
        if answer.finish_reason in DECLINED:
            return self._give_up(DECLINED[answer.finish_reason], None)
        faults = dict.fromkeys(self._open, "truncated")
        if answer.finish_reason == LENGTH:
            self._sampling = self._sampling.model_copy(update={"max_tokens": self._sampling.max_tokens * 2})
        else:
            reading = read_answer(answer.text, self._open, self._items)
            self.answers |= reading.turns
            self._open = {turn: text for turn, text in self._open.items() if turn in reading.faults}
            faults = dict(reading.faults)
        if not self._open:
            return None
        if self._attempt <= self._tries:
            self._request = self._prompts.request(
                self._window, self._texts, self._open, self._sampling, self._attempt, faults.values()
            )
            return None
        for turn, fault in faults.items():
            self.unlabelled[turn] = (INVALID, fault)
        return None

    def _give_up(self, reason: str, detail: str | None) -> None:
        self.unlabelled |= dict.fromkeys(self._open, (reason, detail))
