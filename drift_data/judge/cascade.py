"""The `cascade` judge: the local judge scores every turn; a language model rescores the uncertain ones.

If the model cannot label a turn that it was asked about, the turn is dropped with the model's reason. The local score
never replaces a missing answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np
import pyarrow as pa

from drift_data.judge.base import Judge, JudgedBatch, list_feedback_keys
from drift_data.judge.options import Band
from drift_data.judge.spur.exchange import WindowExchange
from drift_data.judge.spur.judge import ASKED_COLUMN, LLMJudge
from drift_data.judge.spur.prompt import ScoringPrompts
from drift_data.workspace import UserError


class CascadeJudge:
    """Asks a language model about the turns whose local score is uncertain.

    The same thresholds turn the scores of both judges into labels.

    Args:
        local: scores every turn; a turn that it cannot label counts as uncertain.
        llm: judges the uncertain turns; its prompts show the other turns of the conversation as context.
        band: the local scores that count as uncertain.

    Raises:
        UserError: the two judges have different rubrics.
    """

    def __init__(self, local: Judge, llm: LLMJudge, band: Band) -> None:
        if local.rubric is None or local.rubric.hash != llm.rubric.hash:
            raise UserError(
                f"JUDGE=cascade needs one rubric for both judges: {local.name} knows only the shipped one, and RUBRIC= "
                f"names {llm.rubric.name} ({llm.rubric.hash}). Leave RUBRIC= out, or let the language model judge all "
                f"turns (JUDGE={llm.name.split(':', 1)[0]})."
            )
        self.name = f"cascade:{local.name}+{llm.name}"
        self.rubric = llm.rubric
        self.inputs: Sequence[str] = (*local.inputs, *llm.inputs)
        self.options: Mapping[str, Any] = {
            "band": {"low": band.low, "high": band.high},
            "local": dict(local.options),
            "llm": dict(llm.options),
        }
        self._local, self._llm, self._band = local, llm, band
        self._labelled = Counter[str]()

    @property
    def prompts(self) -> ScoringPrompts:
        """Return the prompts of the language model's requests."""
        return self._llm.prompts

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[JudgedBatch]:
        """Judge batches in order. The cascade reads ahead of its answers as far as the LLM judge does."""
        self._labelled.clear()
        waiting: deque[_CertainTurns] = deque()
        for judged in self._llm.judge(self._select_uncertain(conversations, waiting)):
            certain = waiting.popleft()
            self._labelled[self._local.name] += certain.rows.num_rows
            self._labelled[self._llm.name] += judged.rows.num_rows
            yield JudgedBatch(certain.merge(judged.rows), judged.unlabelled)

    def plan_exchanges(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[WindowExchange]:
        """Yield the exchanges that judging would take, without asking anything: for estimates."""
        return self._llm.plan_exchanges(self._select_uncertain(conversations, deque()))

    def report(self) -> Mapping[str, Any]:
        """Return the reports of both judges, and how many turns each of them labelled."""
        return {**self._local.report(), **self._llm.report(), "labelled": dict(self._labelled)}

    def _select_uncertain(
        self, conversations: Iterable[pa.RecordBatch], waiting: deque[_CertainTurns]
    ) -> Iterator[pa.RecordBatch]:
        """Yield the conversations of each batch that have uncertain turns, with these turns in `ASKED_COLUMN`.

        The certain rows of each batch are appended to `waiting`.
        """
        batches, batches_to_score = tee(conversations)
        for batch, local in zip(batches, self._local.judge(batches_to_score), strict=True):
            # The scores are float32, and NumPy compares the band's edges with them as float32, too.
            scores = local.rows["dsat_score"].to_numpy()
            rows = local.rows.filter(pa.array((scores < self._band.low) | (scores >= self._band.high)))
            positions = {key: position for position, key in enumerate(list_feedback_keys(batch))}
            certain = [positions.pop(key) for key in _iter_keys(rows)]
            waiting.append(_CertainTurns(rows, certain, positions))
            asked: dict[str, list[int]] = defaultdict(list)
            for conversation, turn in positions:
                asked[conversation].append(turn)
            ids = batch["conversation_id"].to_pylist()
            uncertain = batch.filter(pa.array([name in asked for name in ids], pa.bool_()))
            turns = [asked[name] for name in ids if name in asked]
            yield uncertain.append_column(ASKED_COLUMN, pa.array(turns, pa.list_(pa.int32())))


@dataclass(frozen=True, slots=True)
class _CertainTurns:
    """The turns of one batch whose local score is certain."""

    rows: pa.Table  # schema `JUDGED_ROWS`
    positions: list[int]  # position of each row among all feedback turns of the batch
    # Key → position among all feedback turns, of each turn that the language model is asked about.
    asked: Mapping[tuple[str, int], int]

    def merge(self, answers: pa.Table) -> pa.Table:
        """Return these rows and the language model's rows, in the order of the batch."""
        positions = [*self.positions, *(self.asked[key] for key in _iter_keys(answers))]
        return pa.concat_tables([self.rows, answers]).take(np.argsort(positions))


def _iter_keys(rows: pa.Table) -> Iterator[tuple[str, int]]:
    """Yield the key (conversation_id, turn) of each row."""
    return zip(rows["conversation_id"].to_pylist(), rows["turn"].to_pylist(), strict=True)
