"""Judges one window with the model: asks, checks the answer, and asks again for turns without a usable answer."""

from __future__ import annotations

from drift_data.judge.rubric import Rubric
from drift_data.judge.spur.answer import TurnAnswer, read_answer
from drift_data.judge.spur.prompt import ScoringPrompts
from drift_data.judge.spur.windows import Window
from drift_data.llm.request import DECLINED, INVALID, LENGTH, Answer, Request, Sampling


class WindowExchange:
    """The exchange with the model about the turns of one window; a `Task` for a backend.

    Args:
        window: what to judge; without turns in it, the exchange is finished from the start.
        prompts: composes the requests.
        rubric: holds the items that an answer may name.
        sampling: model and parameters of the first request; `max_tokens` is doubled after an answer that was cut off.
        tries: most answers that are asked for.
    """

    is_needed = False  # the run has a result without this answer: its turns then stay without a label

    def __init__(
        self, window: Window, prompts: ScoringPrompts, rubric: Rubric, sampling: Sampling, tries: int
    ) -> None:
        self.answers: dict[int, TurnAnswer] = {}
        self.unlabelled: dict[int, tuple[str, str | None]] = {}  # turn → reason and detail
        self._window, self._prompts, self._sampling = window, prompts, sampling
        self._items = rubric.polarities
        self._texts, self._tries, self._attempt = prompts.quote_window(window), tries, 1
        self._open = {turn: self._texts[turn] for turn in window.turns}
        self._request: Request | None = None
        if self._open:
            self._request = prompts.make_request(window, self._texts, self._open, sampling)

    @property
    def request(self) -> Request | None:
        """Return what to ask next; None once each turn has an answer or a reason for having none."""
        return self._request

    @property
    def open_turns(self) -> int:
        """Return how many turns have no usable answer yet."""
        return len(self._open)

    def receive(self, answer: Answer) -> None:
        """Keep the usable turns of an answer, and ask for the other turns again while tries are left."""
        self._request, self._attempt = None, self._attempt + 1
        if answer.error is not None:
            return self._give_up(answer.error, answer.detail)
        if answer.finish_reason in DECLINED:
            return self._give_up(DECLINED[answer.finish_reason], None)
        faults = dict.fromkeys(self._open, "truncated")
        if answer.finish_reason == LENGTH:
            self._sampling = self._sampling.model_copy(update={"max_tokens": self._sampling.max_tokens * 2})
        else:
            checked = read_answer(answer.text, self._open, self._items)
            self.answers |= checked.turns
            self._open = {turn: text for turn, text in self._open.items() if turn in checked.faults}
            faults = dict(checked.faults)
        if not self._open:
            return None
        if self._attempt <= self._tries:
            self._request = self._prompts.make_request(
                self._window, self._texts, self._open, self._sampling, self._attempt, faults.values()
            )
            return None
        for turn, fault in faults.items():
            self.unlabelled[turn] = (INVALID, fault)
        return None

    def _give_up(self, reason: str, detail: str | None) -> None:
        """Leave all open turns unlabelled, with this reason."""
        self.unlabelled |= dict.fromkeys(self._open, (reason, detail))
