"""What requests cost and when to stop: prices per million tokens, spending so far, a budget. It sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from drift_data.llm.request import Answer, Request

_MILLION: Final = 1_000_000


class Price(BaseModel):
    """Of a model, per million tokens, in any one currency."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)  # None: as `input`
    batch: float = Field(0.5, ge=0, le=1)  # share of the price that the Batch API takes

    def of(self, input_tokens: int, cached_tokens: int, output_tokens: int, *, batch: bool = False) -> float:
        """Return the price of these tokens; `cached_tokens` are part of `input_tokens`."""
        cached = self.input if self.cached_input is None else self.cached_input
        whole = (
            (input_tokens - cached_tokens) * self.input + cached_tokens * cached + output_tokens * self.output
        )
        return whole * (self.batch if batch else 1) / _MILLION


FREE: Final = Price(input=0, output=0)


@dataclass
class Meter:
    """Adds up requests, tokens and money, and says whether the next request still fits the budget.

    The budget covers everything that the run uses, stored answers included, so a run that was killed and goes
    on keeps within it. Requests in flight count with the most they can cost: all of `max_tokens`.
    """

    price: Price = FREE
    budget: float | None = None  # in the currency of the price; None: no limit
    count_tokens: Callable[[str], int] = len  # of a text; for requests in flight only
    batch: bool = False
    sent: int = 0
    stored: int = 0
    failed: int = 0
    over_budget: int = 0  # requests that were not sent
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    spent_now: float = 0.0
    spent_before: float = 0.0  # price of the answers that were in the store
    foreseen: float = 0.0  # of `spent_before`, where it is known before those answers are come upon
    _reserved: dict[str, float] = field(default_factory=dict)
    _system_tokens: tuple[str, int] | None = None  # of the last system message: most requests share it

    def reserve(self, request: Request) -> bool:
        """Set aside the most a request can cost; False when the budget does not allow it now."""
        if self.budget is None:
            return True
        before = max(self.spent_before, self.foreseen)
        left = self.budget - before - self.spent_now - sum(self._reserved.values())
        longest = request.sampling.max_tokens
        if self.price.of(self._shared_tokens(request), 0, longest, batch=self.batch) > left:
            return False  # whatever the user message: when all is spent, many are refused, and fast
        most = self.price.of(self.prompt_tokens(request), 0, longest, batch=self.batch)
        if most > left:
            return False
        self._reserved[request.key] = most
        return True

    def prompt_tokens(self, request: Request) -> int:
        """Return the estimated tokens of a prompt."""
        return self._shared_tokens(request) + self.count_tokens(request.user)

    def _shared_tokens(self, request: Request) -> int:
        """Return those of the system message; most requests share it, and it is counted once."""
        if self._system_tokens is None or self._system_tokens[0] != request.system:
            self._system_tokens = (request.system, self.count_tokens(request.system))
        return self._system_tokens[1]

    def counted(self, request: Request, answer: Answer) -> Answer:
        """Return an answer that came without its tokens, with estimates of them."""
        output = self.count_tokens(answer.text) if answer.text else 0
        return replace(answer, input_tokens=self.prompt_tokens(request), output_tokens=output)

    @property
    def waiting(self) -> bool:
        """Say whether requests in flight hold money that may come free."""
        return bool(self._reserved)

    def priced(self, answer: Answer) -> float:
        """Return the price of an answer that has just come."""
        return self.price.of(
            answer.input_tokens, answer.cached_tokens, answer.output_tokens, batch=self.batch
        )

    def settle(self, request: Request, answer: Answer) -> None:
        """Count the answer to a request that was sent, or its failure."""
        self._reserved.pop(request.key, None)
        if answer.error is not None:
            self.failed += 1
            return
        self.sent += 1
        self.input_tokens += answer.input_tokens
        self.cached_tokens += answer.cached_tokens
        self.output_tokens += answer.output_tokens
        self.spent_now += answer.price

    def found(self, answer: Answer) -> None:
        """Count an answer that was in the store."""
        self.stored += 1
        self.spent_before += answer.price

    def report(self) -> dict[str, Any]:
        """Return it for a manifest."""
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
