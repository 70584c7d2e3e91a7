"""The `cascade` judge: the local judge scores every turn, a language model those that it is uncertain about.

It knows not how either judges. A turn that the model was asked about has its answer or none: what the model could
not label is dropped with its reason, and the local score never stands in for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import tee
from typing import Any

import numpy as np
import pyarrow as pa

from drift_data.judge.base import Judge, Judged, feedback_keys
from drift_data.judge.options import Band
from drift_data.judge.spur.exchange import Exchange
from drift_data.judge.spur.judge import ASKED, LLMJudge
from drift_data.judge.spur.prompt import Prompts
from drift_data.workspace import UserError


class CascadeJudge:
    """Asks a language model about the turns that a local judge is uncertain about.

    The same thresholds decide on the scores of both.

    Args:
        local: scores every turn; what it cannot label counts as uncertain.
        llm: is asked about the uncertain turns, and sees the others of their conversations as context.
        band: what is uncertain.

    Raises:
        UserError: they have not the same rubric.
    """

    def __init__(self, local: Judge, llm: LLMJudge, band: Band) -> None:
        if local.rubric is None or local.rubric.hash != llm.rubric.hash:
            raise UserError(
                f"JUDGE=cascade decides by one rubric: {local.name} knows only the shipped one, and RUBRIC= names "
                f"{llm.rubric.name} ({llm.rubric.hash}). Leave RUBRIC= out, or let the model judge all turns by it "
                f"(JUDGE={llm.name.split(':', 1)[0]})."
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
    def prompts(self) -> Prompts:
        """Return what makes the model's requests."""
        return self._llm.prompts

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[Judged]:
        """Judge batches; as many are read ahead of the answers as the LLM judge reads."""
        self._labelled.clear()
        waiting: deque[_Certain] = deque()
        for answered in self._llm.judge(self._uncertain(conversations, waiting)):
            certain = waiting.popleft()
            self._labelled[self._local.name] += certain.rows.num_rows
            self._labelled[self._llm.name] += answered.rows.num_rows
            yield Judged(certain.with_answers(answered.rows), answered.unlabelled)

    def exchanges(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[Exchange]:
        """Yield the exchanges that conversations take, unasked: for estimates."""
        return self._llm.exchanges(self._uncertain(conversations, deque()))

    def report(self) -> Mapping[str, Any]:
        """Return what the model took, and how many turns each of the two labelled."""
        return {**self._local.report(), **self._llm.report(), "labelled": dict(self._labelled)}

    def _uncertain(
        self, conversations: Iterable[pa.RecordBatch], waiting: deque[_Certain]
    ) -> Iterator[pa.RecordBatch]:
        """Yield of each batch the conversations to ask about, with the turns; what is certain goes to `waiting`."""
        mine, theirs = tee(conversations)
        for batch, local in zip(mine, self._local.judge(theirs), strict=True):
            scores = local.rows["dsat_score"].to_numpy()  # float32, as which numpy compares the edges, too
            rows = local.rows.filter(pa.array((scores < self._band.low) | (scores >= self._band.high)))
            places = {key: place for place, key in enumerate(feedback_keys(batch))}
            certain = [places.pop(key) for key in _keys(rows)]
            waiting.append(_Certain(rows, certain, places))
            asked: dict[str, list[int]] = defaultdict(list)
            for conversation, turn in places:
                asked[conversation].append(turn)
            ids = batch["conversation_id"].to_pylist()
            some = batch.filter(pa.array([name in asked for name in ids], pa.bool_()))
            turns = [asked[name] for name in ids if name in asked]
            yield some.append_column(ASKED, pa.array(turns, pa.list_(pa.int32())))


@dataclass(frozen=True, slots=True)
class _Certain:
    """What the local judge is certain of in a batch."""

    rows: pa.Table
    places: list[int]  # of the rows among all feedback turns of the batch
    asked: Mapping[tuple[str, int], int]  # key → place of each other turn

    def with_answers(self, answers: pa.Table) -> pa.Table:
        """Return these rows and the model's, in the order of the batch."""
        places = [*self.places, *(self.asked[key] for key in _keys(answers))]
        return pa.concat_tables([self.rows, answers]).take(np.argsort(places))


def _keys(rows: pa.Table) -> Iterator[tuple[str, int]]:
    return zip(rows["conversation_id"].to_pylist(), rows["turn"].to_pylist(), strict=True)
