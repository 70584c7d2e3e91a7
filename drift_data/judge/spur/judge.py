"""The LLM judge: SPUR's third phase (arXiv 2403.12388), made for single turns. It knows not how requests travel.

Several conversations are under way at once; the answers are put back into the order of the table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from drift_data.chats.safe_text import visible
from drift_data.judge.base import JUDGED_ROWS, Judged, Unlabelled
from drift_data.judge.rubric import Rubric
from drift_data.judge.spur.answer import MAX_EVIDENCE, TurnAnswer
from drift_data.judge.spur.exchange import Exchange
from drift_data.judge.spur.options import ScoreOptions
from drift_data.judge.spur.prompt import Prompts
from drift_data.judge.spur.windows import Window, windows
from drift_data.llm.backend import Backend
from drift_data.llm.request import Sampling
from drift_data.schema import DSAT, SAT, make_label_row

ASKED: Final = "asked"  # column of a batch, list<int32>: the feedback turns to judge; without it, all of them
_DETAIL = 300  # characters
_NOTHING = Window(0, (), ())


class LLMJudge:
    """Scores each feedback turn by the items of a rubric that a language model finds in it."""

    inputs: Sequence[str] = ()

    def __init__(
        self,
        backend: Backend,
        sampling: Sampling,
        rubric: Rubric,
        options: ScoreOptions = ScoreOptions(),  # noqa: B008  (frozen)
    ) -> None:
        self.name = f"{backend.kind}:{sampling.model}"
        self.rubric = rubric
        self._polarities, self._rubric_hash = rubric.polarities, rubric.hash
        self._backend, self._sampling, self._tries = backend, sampling, options.tries
        self._window = options.window
        self.prompts = Prompts(rubric, options.window)
        self.options: Mapping[str, Any] = {
            "prompt": self.prompts.version,
            "sampling": sampling.model_dump(),
            **options.model_dump(),
        }

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[Judged]:
        """Judge batches with many requests in flight; batches are read ahead of their answers.

        A batch with the column `ASKED` is asked about those turns only, and only they are answered.
        """
        waiting: deque[_Batch] = deque()
        for exchange in self._backend.run(self._exchanges(conversations, waiting)):
            exchange.batch.take(exchange)
            while waiting and waiting[0].complete:
                yield self._judged(waiting.popleft())
        while waiting and waiting[0].complete:
            yield self._judged(waiting.popleft())

    def exchanges(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[Exchange]:
        """Yield the exchanges that conversations take, unasked: for estimates."""
        return (one for one in self._exchanges(conversations, deque()) if one.request is not None)

    def report(self) -> Mapping[str, Any]:
        """Return requests, tokens and price."""
        return self._backend.report()

    def _exchanges(
        self, conversations: Iterable[pa.RecordBatch], waiting: deque[_Batch]
    ) -> Iterator[_Exchange]:
        for batch in conversations:
            state = _Batch()
            waiting.append(state)
            ids = batch["conversation_id"].to_pylist()
            asked = batch[ASKED].to_pylist() if ASKED in batch.schema.names else [None] * len(ids)
            for row, messages in enumerate(batch["messages"].to_pylist()):
                for window in windows(messages or (), self._window, asked[row]):
                    yield self._exchange(window, state, row, ids[row])
            state.asked = True
            if not state.open:  # comes back at once, so that the batch is handed on before others are read
                yield self._exchange(_NOTHING, state, 0, "")

    def _exchange(self, window: Window, batch: _Batch, place: int, conversation: str) -> _Exchange:
        exchange = _Exchange(window, self.prompts, self.rubric, self._sampling, self._tries)
        exchange.batch, exchange.place, exchange.conversation = batch, place, conversation
        batch.open += 1
        return exchange

    def _judged(self, batch: _Batch) -> Judged:
        return Judged(pa.Table.from_pylist(batch.rows(self), schema=JUDGED_ROWS), batch.unlabelled)

    def row(self, conversation: str, answer: TurnAnswer) -> dict[str, Any]:
        """Return a row of the label table, its label open."""
        strengths: dict[str, int] = {}
        for item in answer.items:
            strengths[item.name] = max(item.strength, strengths.get(item.name, 0))
        polarity = self._polarities
        scores = dict.fromkeys((SAT, DSAT), 0)
        for name, strength in strengths.items():
            scores[polarity[name]] += strength
        return make_label_row(
            conversation,
            answer.turn,
            None,
            sat_score=scores[SAT],
            dsat_score=scores[DSAT],
            items=[(name, polarity[name], strength) for name, strength in strengths.items()],
            reason=answer.act,
            evidence=visible(answer.evidence, MAX_EVIDENCE) if strengths else None,
            refusal=answer.refusal != "no",
            correct_refusal=None if answer.refusal == "no" else answer.refusal == "deserved",
            judge=self.name,
            rubric=self._rubric_hash,
        )


class _Exchange(Exchange):
    """An exchange that knows where its answers belong."""

    batch: _Batch
    place: int  # row of the conversation in its batch
    conversation: str


class _Batch:
    """The answers to a batch of conversations, as they come."""

    def __init__(self) -> None:
        self.open, self.asked = 0, False  # exchanges under way; all have been handed out
        self._unlabelled: list[tuple[int, Unlabelled]] = []
        self._answers: list[tuple[int, str, TurnAnswer]] = []

    @property
    def complete(self) -> bool:
        return self.asked and self.open == 0

    def take(self, exchange: _Exchange) -> None:
        self.open -= 1
        self._answers += [
            (exchange.place, exchange.conversation, answer) for answer in exchange.answers.values()
        ]
        for turn, (reason, detail) in exchange.unlabelled.items():
            shown = visible(detail, _DETAIL) if detail else None
            self._unlabelled.append((exchange.place, Unlabelled(exchange.conversation, turn, reason, shown)))

    @property
    def unlabelled(self) -> list[Unlabelled]:
        """Return the turns without a label, in order."""
        return [turn for _, turn in sorted(self._unlabelled, key=lambda entry: (entry[0], entry[1].turn))]

    def rows(self, judge: LLMJudge) -> list[dict[str, Any]]:
        """Return the label rows in the order of conversations and turns."""
        self._answers.sort(key=lambda answer: (answer[0], answer[2].turn))
        return [judge.row(conversation, answer) for _, conversation, answer in self._answers]
