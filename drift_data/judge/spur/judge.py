"""The LLM judge: a language model scores single feedback turns, as in SPUR's third phase (arXiv 2403.12388).

Many conversations are judged at the same time, and their labels are put back into the order of the table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from drift_data.chats.safe_text import escape_invisible
from drift_data.judge.base import JUDGED_ROWS, JudgedBatch, UnlabelledTurn
from drift_data.judge.rubric import Rubric
from drift_data.judge.spur.answer import MAX_EVIDENCE_CHARACTERS, TurnAnswer
from drift_data.judge.spur.exchange import WindowExchange
from drift_data.judge.spur.options import ScoreOptions
from drift_data.judge.spur.prompt import ScoringPrompts
from drift_data.judge.spur.windows import Window, cut_windows
from drift_data.llm.backend import Backend
from drift_data.llm.request import Sampling
from drift_data.schema import DSAT, SAT, make_label_row

# Column of a batch, list<int32>: the feedback turns to judge. Without this column, all of them are judged.
ASKED_COLUMN: Final = "asked"
_MAX_DETAIL_CHARACTERS = 300  # characters of an unlabelled turn's detail that are kept
_EMPTY_WINDOW = Window(0, (), ())


class LLMJudge:
    """Scores each feedback turn by the rubric items that a language model finds in it.

    Args:
        backend: sends the requests.
        sampling: model and parameters.
        rubric: the items to look for.
        options: how conversations are cut into requests, and how often one is repeated.
    """

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
        self.prompts = ScoringPrompts(rubric, options.window)
        self.options: Mapping[str, Any] = {
            "prompt": self.prompts.version,
            "sampling": sampling.model_dump(),
            **options.model_dump(),
        }

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[JudgedBatch]:
        """Judge batches in order, with many requests in flight; batches are read ahead of their answers.

        In a batch with the column `ASKED_COLUMN` only the turns in that column are judged and returned.
        """
        waiting: deque[_PendingBatch] = deque()
        for exchange in self._backend.run(self._make_exchanges(conversations, waiting)):
            exchange.batch.add_answers(exchange)
            while waiting and waiting[0].is_complete:
                yield self._make_judged(waiting.popleft())
        while waiting and waiting[0].is_complete:
            yield self._make_judged(waiting.popleft())

    def plan_exchanges(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[WindowExchange]:
        """Yield the exchanges that judging would take, without asking anything: for estimates."""
        return (one for one in self._make_exchanges(conversations, deque()) if one.request is not None)

    def report(self) -> Mapping[str, Any]:
        """Return how many requests and tokens the run took, and their price."""
        return self._backend.report()

    def _make_exchanges(
        self, conversations: Iterable[pa.RecordBatch], waiting: deque[_PendingBatch]
    ) -> Iterator[_PlacedExchange]:
        """Yield an exchange for each window; append a pending batch for each batch to `waiting`."""
        for batch in conversations:
            pending = _PendingBatch()
            waiting.append(pending)
            ids = batch["conversation_id"].to_pylist()
            asked = (
                batch[ASKED_COLUMN].to_pylist() if ASKED_COLUMN in batch.schema.names else [None] * len(ids)
            )
            for row, messages in enumerate(batch["messages"].to_pylist()):
                for window in cut_windows(messages or (), self._window, asked[row]):
                    yield self._make_exchange(window, pending, row, ids[row])
            pending.all_asked = True
            if not pending.open:
                # A batch without windows gets one empty exchange, which the backend returns at once: so the batch is
                # yielded before others are read.
                yield self._make_exchange(_EMPTY_WINDOW, pending, 0, "")

    def _make_exchange(
        self, window: Window, batch: _PendingBatch, row: int, conversation: str
    ) -> _PlacedExchange:
        exchange = _PlacedExchange(window, self.prompts, self.rubric, self._sampling, self._tries)
        exchange.batch, exchange.row, exchange.conversation = batch, row, conversation
        batch.open += 1
        return exchange

    def _make_judged(self, batch: _PendingBatch) -> JudgedBatch:
        return JudgedBatch(pa.Table.from_pylist(batch.make_rows(self), schema=JUDGED_ROWS), batch.unlabelled)

    def make_row(self, conversation: str, answer: TurnAnswer) -> dict[str, Any]:
        """Return the row of one turn, schema `JUDGED_ROWS`; its label is null, for the thresholds to decide."""
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
            evidence=escape_invisible(answer.evidence, MAX_EVIDENCE_CHARACTERS) if strengths else None,
            refusal=answer.refusal != "no",
            correct_refusal=None if answer.refusal == "no" else answer.refusal == "deserved",
            judge=self.name,
            rubric=self._rubric_hash,
        )


class _PlacedExchange(WindowExchange):
    """An exchange that carries where its answers belong."""

    batch: _PendingBatch
    row: int  # row of the conversation in its batch
    conversation: str


class _PendingBatch:
    """Collects the answers to one batch of conversations as they come."""

    def __init__(self) -> None:
        self.open = 0  # exchanges that are not finished
        self.all_asked = False  # whether all exchanges of the batch have been given to the backend
        self._unlabelled: list[tuple[int, UnlabelledTurn]] = []  # row of the conversation, turn
        self._answers: list[tuple[int, str, TurnAnswer]] = []  # row and id of the conversation, answer

    @property
    def is_complete(self) -> bool:
        """Return whether all exchanges of the batch are finished."""
        return self.all_asked and self.open == 0

    def add_answers(self, exchange: _PlacedExchange) -> None:
        """Keep the answers of a finished exchange."""
        self.open -= 1
        self._answers += [
            (exchange.row, exchange.conversation, answer) for answer in exchange.answers.values()
        ]
        for turn, (reason, detail) in exchange.unlabelled.items():
            detail = escape_invisible(detail, _MAX_DETAIL_CHARACTERS) if detail else None
            self._unlabelled.append(
                (exchange.row, UnlabelledTurn(exchange.conversation, turn, reason, detail))
            )

    @property
    def unlabelled(self) -> list[UnlabelledTurn]:
        """Return the unlabelled turns in the order of conversations and turns."""
        return [turn for _, turn in sorted(self._unlabelled, key=lambda entry: (entry[0], entry[1].turn))]

    def make_rows(self, judge: LLMJudge) -> list[dict[str, Any]]:
        """Return the label rows in the order of conversations and turns."""
        self._answers.sort(key=lambda answer: (answer[0], answer[2].turn))
        return [judge.make_row(conversation, answer) for _, conversation, answer in self._answers]
