"""Adds up what requests cost, and says when a budget ends. Prices per million tokens are in `options.Price`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from drift_data.llm.options import Price
from drift_data.llm.request import Answer, Request

FREE: Final = Price(input=0, output=0)  # also the price of a model for which the recipe has none


@dataclass
class Spending:
    """The requests, tokens and money of a run, and whether the next request still fits the budget.

    The budget covers all answers that the run uses, stored ones included, so a run that was killed and started again
    keeps within it. Requests on their way count with the most that they can cost: an answer of `max_tokens`.
    """

    price: Price = FREE
    budget: float | None = None  # in the currency of the price; None: no limit
    # A text → its tokens, estimated; used for requests that have no answer yet.
    count_tokens: Callable[[str], int] = len
    batch: bool = False  # whether the Batch API answers, at its own share of the price
    sent: int = 0  # requests that were answered in this run
    stored: int = 0  # requests whose answer was in the store
    failed: int = 0  # requests that failed for good
    over_budget: int = 0  # requests that were not sent because of the budget
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    spent_now: float = 0.0  # price of the answers that came in this run
    spent_before: float = 0.0  # price of the stored answers that this run has used so far
    # Price of all stored answers that this run will use, if computed up front; else 0. The budget counts this price
    # or `spent_before`, whichever is higher.
    known_cached_price: float = 0.0
    # Key of a request on its way → the most that it can cost.
    _reserved: dict[str, float] = field(default_factory=dict)
    # The last system message and its tokens: most requests share it.
    _system_tokens: tuple[str, int] | None = None

    def reserve(self, request: Request) -> bool:
        """Set aside the most that a request can cost; return False when the budget has no room for it now."""
        if self.budget is None:
            return True
        before = max(self.spent_before, self.known_cached_price)
        left = self.budget - before - self.spent_now - sum(self._reserved.values())
        longest = request.sampling.max_tokens
        if self.price.of(self._count_system_tokens(request), 0, longest, batch=self.batch) > left:
            return False  # without counting the user message: once the budget is spent, many requests are refused fast
        most = self.price.of(self.count_prompt_tokens(request), 0, longest, batch=self.batch)
        if most > left:
            return False
        self._reserved[request.key] = most
        return True

    def count_prompt_tokens(self, request: Request) -> int:
        """Return the estimated tokens of a request's prompt."""
        return self._count_system_tokens(request) + self.count_tokens(request.user)

    def _count_system_tokens(self, request: Request) -> int:
        """Return the tokens of the system message. Most requests share it, so it is counted once."""
        if self._system_tokens is None or self._system_tokens[0] != request.system:
            self._system_tokens = (request.system, self.count_tokens(request.system))
        return self._system_tokens[1]

    def estimate_tokens(self, request: Request, answer: Answer) -> Answer:
        """Return an answer that came without token counts with estimated ones."""
        output = self.count_tokens(answer.text) if answer.text else 0
        return replace(answer, input_tokens=self.count_prompt_tokens(request), output_tokens=output)

    @property
    def has_reserved(self) -> bool:
        """Say whether money is set aside for requests on their way; answers may free a part of it."""
        return bool(self._reserved)

    def price_of(self, answer: Answer) -> float:
        """Return the price of an answer that has just come."""
        return self.price.of(
            answer.input_tokens, answer.cached_tokens, answer.output_tokens, batch=self.batch
        )

    def record(self, request: Request, answer: Answer) -> None:
        """Count the answer to a request that was sent, or the request's failure."""
        self._reserved.pop(request.key, None)
        if answer.error is not None:
            self.failed += 1
            return
        self.sent += 1
        self.input_tokens += answer.input_tokens
        self.cached_tokens += answer.cached_tokens
        self.output_tokens += answer.output_tokens
        self.spent_now += answer.price

    def record_cached(self, answer: Answer) -> None:
        """Count an answer that was in the store."""
        self.stored += 1
        self.spent_before += answer.price

    def report(self) -> dict[str, Any]:
        """Return the figures for a manifest."""
        return {
            "requests": {
                "sent": self.sent,
                "from_store": self.stored,
                "failed": self.failed,
                "over_budget": self.over_budget,
            },
            "tokens": {
                "input": self.input_tokens,
                "cached_input": self.cached_tokens,
                "output": self.output_tokens,
            },
            "price": {
                "now": round(self.spent_now, 6),
                "before": round(self.spent_before, 6),
                "budget": self.budget,
            },
        }
