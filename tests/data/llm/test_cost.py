"""Prices and the budget."""

import pytest

from drift_data.llm.cost import Spending
from drift_data.llm.options import Price
from drift_data.llm.request import Answer
from tests.helpers.llm_tasks import SYSTEM, request


def test_price_is_per_million_tokens_and_cached_ones_are_part_of_the_input() -> None:
    price = Price(input=2, output=8, cached_input=0.5, batch=0.5)
    assert price.of(1_000_000, 400_000, 100_000) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.1 * 8)
    assert price.of(1_000_000, 400_000, 100_000, batch=True) == pytest.approx((1.2 + 0.2 + 0.8) / 2)
    assert Price(input=2, output=8).of(1_000_000, 400_000, 0) == 2  # no price for cached ones: as others


def spending(budget: float) -> Spending:
    # One token a character, and a price of 1 a token of the answer, which has at most 100.
    return Spending(price=Price(input=0, output=1_000_000), budget=budget)


def test_requests_on_their_way_count_with_the_most_they_can_cost() -> None:
    counted = spending(250)
    assert counted.reserve(request("a")) and counted.reserve(request("b"))
    assert not counted.reserve(request("c"))
    assert counted.has_reserved
    counted.record(request("a"), Answer("x", output_tokens=1, price=1.0))
    assert counted.reserve(request("c"))


def test_failure_frees_what_was_set_aside_and_costs_nothing() -> None:
    counted = spending(100)
    assert counted.reserve(request("a"))
    counted.record(request("a"), Answer(error="request_failed"))
    assert (counted.failed, counted.spent_now, counted.has_reserved) == (1, 0, False)
    assert counted.reserve(request("b"))


def test_stored_answers_count_towards_the_budget() -> None:
    counted = spending(150)
    counted.record_cached(Answer("x", price=60))
    assert not counted.reserve(request("a"))
    assert (counted.spent_before, counted.has_reserved) == (60, False)


def test_user_message_counts_too() -> None:
    counted = Spending(price=Price(input=1_000_000, output=0), budget=len(SYSTEM) + 5)
    assert not counted.reserve(request("123456"))
    assert counted.reserve(request("12345"))


def test_system_message_is_counted_once_and_the_user_message_only_while_money_is_left() -> None:
    texts: list[str] = []

    def count(text: str) -> int:
        texts.append(text)
        return len(text)

    counted = Spending(price=Price(input=0, output=1_000_000), budget=150, count_tokens=count)
    assert counted.reserve(request("a"))
    assert not any(counted.reserve(request(f"b{number}")) for number in range(1_000))
    assert texts == [SYSTEM, "a"]


def test_no_budget_is_no_limit() -> None:
    counted = Spending(price=Price(input=10, output=10))
    assert all(counted.reserve(request(str(number))) for number in range(100))
    assert not counted.has_reserved


def test_report_adds_up() -> None:
    counted = spending(1_000)
    answer = Answer("x", "stop", 10, 4, 2)
    answer = Answer("x", "stop", 10, 4, 2, counted.price_of(answer))
    for user in "ab":
        assert counted.reserve(request(user))
        counted.record(request(user), answer)
    counted.record_cached(answer)
    assert counted.report() == {
        "requests": {"sent": 2, "from_store": 1, "failed": 0, "over_budget": 0},
        "tokens": {"input": 20, "cached_input": 8, "output": 4},
        "price": {"now": 4.0, "before": 2.0, "budget": 1_000},
    }
