"""Estimates what labelling will take (requests, tokens, price) before the first request is sent.

The requests are composed exactly as the run will compose them. If there are many conversations, only every n-th batch
of them is examined, and the rest is extrapolated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import pyarrow as pa
from tqdm import tqdm

from drift_data.judge.base import CONVERSATION_COLUMNS
from drift_data.judge.spur.exchange import WindowExchange
from drift_data.judge.spur.prompt import ScoringPrompts
from drift_data.labels.sample import Sample, iter_sampled_conversations
from drift_data.llm.backend import feed_from_store
from drift_data.llm.cost import FREE, Spending
from drift_data.llm.options import Price
from drift_data.llm.store import Store
from drift_data.llm.tokens import TokenCounter
from drift_data.schema import TableName
from drift_data.workspace import Workspace

# Assumed length of an answer in compact JSON. A turn takes about 25 tokens without items and 45 with one; most turns
# have none.
_TOKENS_PER_ANSWER: Final = 8  # tokens of the JSON around the turns
_TOKENS_PER_TURN: Final = 30  # tokens of one turn, averaged
_EXAMINED_CONVERSATIONS: Final = 5_000  # number of conversations that are examined, approximately
_BATCH_CONVERSATIONS: Final = 250  # conversations in a batch; every batch or every n-th one is examined


class AskingJudge(Protocol):
    """A judge that asks a language model about all or some of the turns."""

    @property
    def prompts(self) -> ScoringPrompts:
        """Return the prompts of the requests."""

    def plan_exchanges(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[WindowExchange]:
        """Yield the exchanges that judging would take, without asking anything."""


@dataclass(frozen=True, slots=True)
class LabellingEstimate:
    """What labelling will still ask and pay for; requests whose answers are in the store are counted apart."""

    conversations: int
    examined: int  # conversations that were examined; the rest is extrapolated
    turns: int  # turns that are still to be judged
    requests: int  # requests that are still to be sent
    answered: int  # requests whose answers are in the store; not part of `requests`
    input_tokens: int
    shared_tokens: int  # input tokens of the beginning that all requests share, which servers may cache
    output_tokens: int
    price: float  # price if the server caches nothing, in the currency of the prices
    price_cached: float  # price if the server reads the shared beginning from its cache
    how: str  # how tokens were counted
    priced: bool  # False if no price of the model is known

    def __str__(self) -> str:
        sample = f" (from {self.examined:,})" if self.examined < self.conversations else ""
        return (
            f"{self.conversations:,} conversations{sample}: {self.requests:,} requests for {self.turns:,} turns"
            + (f", {self.answered:,} more are answered already" if self.answered else "")
            + f"; {_format_tokens(self.input_tokens)} tokens in ({_format_tokens(self.shared_tokens)} of them the same "
            f"beginning), about {_format_tokens(self.output_tokens)} out ({self.how})"
            + (self._money() if self.priced else "")
        )

    def _money(self) -> str:
        cached = f", {_format_price(self.price_cached)} if the beginning is cached"
        return f"; price {_format_price(self.price)}{cached if self.price_cached < self.price else ''}"


def _format_tokens(tokens: int) -> str:
    return f"{tokens:,}" if tokens < 1e5 else f"{tokens / 1e6:,.2f}M"


def _format_price(price: float) -> str:
    return f"{price:,.4f}" if price < 1 else f"{price:,.2f}"


def estimate_labelling(
    workspace: Workspace,
    judge: AskingJudge,
    store: Store,
    counter: TokenCounter,
    price: Price,
    *,
    batch: bool = False,
    sample: Sample | None = None,
) -> LabellingEstimate:
    """Return what labelling a workspace's conversations will take, if every first answer is usable.

    Args:
        workspace: holds `conversations`.
        judge: composes the requests.
        store: holds the answers that cost nothing any more.
        counter: counts tokens.
        price: price of the model's tokens.
        batch: whether requests go by the Batch API, at its price.
        sample: the conversations that are labelled; None: all.
    """
    total = min(workspace.require(TableName.CONVERSATIONS).rows_out, sample.size if sample else sys.maxsize)
    shared = counter.count(judge.prompts.system)
    examined = turns = requests = answered = tokens = 0
    with tqdm(desc="estimate", unit=" conv", mininterval=0.5, file=sys.stderr, leave=False) as bar:
        for conversations in _iter_even_batches(workspace, total, sample):
            for exchange in judge.plan_exchanges([conversations]):
                request = exchange.request
                assert request is not None  # a planned exchange has its first request
                if store.has(request.key):
                    answered += 1
                    continue
                requests += 1
                turns += exchange.open_turns
                tokens += counter.count(request.user)
            examined += conversations.num_rows
            bar.update(conversations.num_rows)
    scale = total / examined if examined else 0.0
    prompt, output = tokens + requests * shared, requests * _TOKENS_PER_ANSWER + turns * _TOKENS_PER_TURN
    return LabellingEstimate(
        conversations=total,
        examined=examined,
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


def sum_stored_prices(
    workspace: Workspace, judge: AskingJudge, store: Store, sample: Sample | None = None
) -> float:
    """Return the price paid for stored answers that labelling will use; a budget counts them from the start."""
    spending = Spending()
    for _, conversations in iter_sampled_conversations(
        workspace, CONVERSATION_COLUMNS, _BATCH_CONVERSATIONS, sample
    ):
        for exchange in judge.plan_exchanges([conversations]):
            feed_from_store(exchange, store, spending)
    return spending.spent_before


def _iter_even_batches(workspace: Workspace, total: int, sample: Sample | None) -> Iterator[pa.RecordBatch]:
    """Yield all conversations in batches, or every n-th batch if there are many."""
    step = 1 if sample is not None else max(1, total // _EXAMINED_CONVERSATIONS)
    batches = iter_sampled_conversations(workspace, CONVERSATION_COLUMNS, _BATCH_CONVERSATIONS, sample)
    for number, (_, batch) in enumerate(batches):
        if number % step == 0:
            yield batch
