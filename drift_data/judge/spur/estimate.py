"""What labelling will take, before the first request is sent: requests, tokens, price. It sends nothing.

Requests are made as the run will make them; of many conversations only an even sample is looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import pyarrow as pa
from tqdm import tqdm

from drift_data.judge.base import CONVERSATION_COLUMNS
from drift_data.judge.spur.exchange import Exchange
from drift_data.judge.spur.prompt import Prompts
from drift_data.labels.sample import Sample, conversation_batches
from drift_data.llm.backend import feed_from_store
from drift_data.llm.cost import FREE, Spending
from drift_data.llm.options import Price
from drift_data.llm.store import Store
from drift_data.llm.tokens import TokenCounter
from drift_data.schema import TableName
from drift_data.workspace import Workspace

# Tokens of an answer, compact JSON: about 25 for a turn without items and 45 with one, of which there are fewer.
_ANSWER_START: Final = 8
_ANSWER_TURN: Final = 30
_LOOKED_AT: Final = 5_000  # conversations
_BATCH: Final = 250


class Asker(Protocol):
    """A judge that asks a language model about all or some of the turns."""

    @property
    def prompts(self) -> Prompts:
        """What makes its requests."""

    def exchanges(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[Exchange]:
        """Yield the exchanges that conversations take, unasked."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to be asked; answers that the store has are not in it."""

    conversations: int
    looked_at: int  # of them; the rest is extrapolated
    turns: int
    requests: int
    answered: int  # requests that the store has the answer to
    input_tokens: int
    shared_tokens: int  # of the input: the part that all requests begin with, which servers may cache
    output_tokens: int
    price: float  # nothing cached
    price_cached: float  # the shared part read from the server's cache
    how: str  # tokens were counted
    priced: bool  # false: nobody has said what the model costs

    def __str__(self) -> str:
        sample = f" (from {self.looked_at:,})" if self.looked_at < self.conversations else ""
        return (
            f"{self.conversations:,} conversations{sample}: {self.requests:,} requests for {self.turns:,} turns"
            + (f", {self.answered:,} more are answered already" if self.answered else "")
            + f"; {_millions(self.input_tokens)} tokens in ({_millions(self.shared_tokens)} of them the same "
            f"beginning), about {_millions(self.output_tokens)} out ({self.how})"
            + (self._money() if self.priced else "")
        )

    def _money(self) -> str:
        cached = f", {_price(self.price_cached)} if the beginning is cached"
        return f"; price {_price(self.price)}{cached if self.price_cached < self.price else ''}"


def _millions(tokens: int) -> str:
    return f"{tokens:,}" if tokens < 1e5 else f"{tokens / 1e6:,.2f}M"


def _price(price: float) -> str:
    return f"{price:,.4f}" if price < 1 else f"{price:,.2f}"


def estimate(
    workspace: Workspace,
    judge: Asker,
    store: Store,
    counter: TokenCounter,
    price: Price,
    *,
    batch: bool = False,
    sample: Sample | None = None,
) -> Estimate:
    """Return what labelling a workspace's conversations will take. Answers asked for twice are not foreseen.

    Args:
        workspace: holds `conversations`.
        judge: makes the requests.
        store: what it has is free.
        counter: counts tokens.
        price: of the model.
        batch: by the Batch API.
        sample: the conversations that are labelled; None: all.
    """
    total = min(workspace.require(TableName.CONVERSATIONS).rows_out, sample.size if sample else sys.maxsize)
    shared = counter.count(judge.prompts.system)
    looked_at = turns = requests = answered = tokens = 0
    with tqdm(desc="estimate", unit=" conv", mininterval=0.5, file=sys.stderr, leave=False) as bar:
        for conversations in _even(workspace, total, sample):
            for exchange in judge.exchanges([conversations]):
                request = exchange.request
                assert request is not None  # it has just been made
                if store.has(request.key):
                    answered += 1
                    continue
                requests += 1
                turns += exchange.turns
                tokens += counter.count(request.user)
            looked_at += conversations.num_rows
            bar.update(conversations.num_rows)
    scale = total / looked_at if looked_at else 0.0
    prompt, output = tokens + requests * shared, requests * _ANSWER_START + turns * _ANSWER_TURN
    return Estimate(
        conversations=total,
        looked_at=looked_at,
        turns=round(turns * scale),
        requests=round(requests * scale),
        answered=round(answered * scale),
        input_tokens=round(prompt * scale),
        shared_tokens=round(requests * shared * scale),
        output_tokens=round(output * scale),
        price=price.of(prompt, 0, output, batch=batch) * scale,
        price_cached=price.of(prompt, requests * shared, output, batch=batch) * scale,
        how=counter.how,
        priced=price != FREE,
    )


def paid_before(workspace: Workspace, judge: Asker, store: Store, sample: Sample | None = None) -> float:
    """Return the price of the answers that the store has for a labelling: a budget counts them from the start."""
    spending = Spending()
    for _, conversations in conversation_batches(workspace, CONVERSATION_COLUMNS, _BATCH, sample):
        for exchange in judge.exchanges([conversations]):
            feed_from_store(exchange, store, spending)
    return spending.spent_before


def _even(workspace: Workspace, total: int, sample: Sample | None) -> Iterator[pa.RecordBatch]:
    """Yield all conversations, or every n-th small batch of many."""
    step = 1 if sample is not None else max(1, total // _LOOKED_AT)
    batches = conversation_batches(workspace, CONVERSATION_COLUMNS, _BATCH, sample)
    for number, (_, batch) in enumerate(batches):
        if number % step == 0:
            yield batch
