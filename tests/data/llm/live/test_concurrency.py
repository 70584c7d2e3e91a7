"""How many requests are sent at once: with a made-up server and clock, and over a real socket."""

import asyncio
import heapq
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from drift_data.llm.live.concurrency import Limiter
from tests.helpers.llm_server import Action, Body, Fault, LLMServer, Reply
from tests.helpers.llm_tasks import client, questions


class World:
    """A clock and a server that takes some time for each of the requests that it has at once."""

    def __init__(self, maximum: int, seconds: Callable[[int], float | None]) -> None:
        """Make it. `seconds` of an answer, by how many requests there are; None: it refuses at once."""
        self.now = 0.0
        self.limiter = Limiter(maximum, clock=lambda: self.now)
        self.seconds = seconds
        self.events: list[tuple[float, int, float, bool]] = []  # when, number, taken, answered
        self.answers = self.refusals = self.sent = 0
        self.limits: list[int] = []

    def run(self, answers: int, most: int = 10**9) -> None:
        """Let time pass until so many answers have come, with at most `most` requests to send at once."""
        target = self.answers + answers
        while self.answers < target:
            while len(self.events) < most and (taken := self.limiter.acquire_now()) is not None:
                self.sent += 1
                seconds = self.seconds(len(self.events) + 1)
                event = (self.now + (seconds or 0.001), self.sent, taken, seconds is not None)
                heapq.heappush(self.events, event)
            if not self.events:
                self.now += 0.01  # a pause
                continue
            self.now, _, taken, answered = heapq.heappop(self.events)
            if answered:
                self.answers += 1
                self.limiter.release_answered()
            else:
                self.refusals += 1
                self.limiter.release_refused(taken)
            self.limits.append(self.limiter.limit)


def test_limit_doubles_to_the_maximum_while_all_goes_well() -> None:
    world = World(100, lambda there: 0.2)
    assert world.limiter.limit == 8
    world.run(8 + 16 + 32 + 64 + 100)
    assert list(dict.fromkeys(world.limits)) == [8, 16, 32, 64, 100]
    assert world.now == pytest.approx(0.2 * 5)


def test_limit_starts_at_a_maximum_below_eight() -> None:
    assert Limiter(3).limit == 3


def test_refusals_of_one_round_trip_halve_the_limit_once() -> None:
    limiter = Limiter(64, clock=(clock := Clock()))
    taken = [limiter.acquire_now() for _ in range(8)]
    clock.now = 0.2
    for moment in taken:
        assert moment is not None
        limiter.release_refused(moment)
    assert (limiter.limit, limiter.taken) == (4, 0)
    clock.now = 0.3
    moment = limiter.acquire_now()
    assert moment == 0.3
    clock.now = 0.5
    limiter.release_refused(moment)
    assert limiter.limit == 2


def test_after_a_refusal_it_grows_by_one_a_round() -> None:
    world = World(64, lambda there: 0.2)
    world.limiter.release_refused(world.limiter.acquire_now() or 0.0)
    world.run(2 * 4 + 2 * 5 + 2 * 6)  # where there are few places, a round takes each of them twice
    assert list(dict.fromkeys(world.limits)) == [4, 5, 6, 7]


def test_it_stays_below_what_was_refused_and_looks_again_now_and_then() -> None:
    world = World(64, lambda there: 0.2 if there <= 10 else None)
    world.run(5_000)
    assert world.refusals < 0.02 * world.answers
    late = world.limits[2_000:]
    assert sum(late) / len(late) > 8
    assert max(late) > 10  # it has looked whether there is more by now


def test_faster_server_is_found_out() -> None:
    world = World(64, lambda there: 0.2 if there <= 10 else None)
    world.run(1_000)
    world.seconds = lambda there: 0.2
    world.run(20_000)
    assert world.limiter.limit == 64


def test_saturated_server_gets_no_queue() -> None:
    # Ten at a time take 0.2 s; what is more waits, and brings nothing.
    world = World(1_000, lambda there: 0.2 * max(there / 10, 1))
    world.run(4_000)
    late = world.limits[1_000:]
    assert 10 <= sum(late) / len(late) <= 25
    assert world.now < 1.1 * 0.2 * 4_000 / 10


def test_answers_of_very_different_length_do_not_hold_it_down() -> None:
    chance = random.Random(0)
    world = World(64, lambda there: chance.lognormvariate(0, 0.5))
    world.run(5_000)
    late = world.limits[2_500:]
    assert sum(late) / len(late) > 40


def test_limit_that_is_not_used_does_not_grow() -> None:
    world = World(100, lambda there: 0.2)
    world.run(500, most=5)
    assert world.limiter.limit == 8


def test_wait_that_the_server_asks_for_stops_everything() -> None:
    limiter = Limiter(8, clock=(clock := Clock()))
    moment = limiter.acquire_now()
    assert moment is not None
    limiter.release_refused(moment, wait=3)
    assert limiter.acquire_now() is None
    clock.now = 2.9
    assert limiter.acquire_now() is None
    clock.now = 3.1
    assert limiter.acquire_now() == 3.1


def test_server_that_takes_less_than_one_at_a_time_is_asked_less_often() -> None:
    last = -1.0

    def one_a_second(there: int) -> float | None:
        nonlocal last
        if world.now - last < 1:
            return None
        last = world.now
        return 0.05

    world = World(8, one_a_second)
    world.run(100)
    assert world.refusals < 2.5 * world.answers
    assert world.now < 250


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_those_who_wait_get_a_place_in_their_turn() -> None:
    async def turns() -> list[int]:
        limiter, order = Limiter(2), list[int]()

        async def one(number: int) -> None:
            moment = await limiter.acquire()
            order.append(number)
            await asyncio.sleep(0.001)
            if number == 3:
                limiter.release_refused(moment, wait=0.05)
            else:
                limiter.release_answered()

        started = time.monotonic()
        await asyncio.gather(*(one(number) for number in range(12)))
        assert 0.05 < time.monotonic() - started < 1
        assert limiter.taken == 0
        return order

    assert sorted(asyncio.run(turns())) == list(range(12))


def test_server_that_refuses_above_four_at_once_gets_about_four(tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> Action:
        # `at_once` does not count this request yet.
        return Reply(delay=0.01) if server.at_once < 4 else Fault(429)

    with LLMServer(answer) as server, client(server.base_url, tmp_path) as made:
        done = list(made.run(questions(300)))
        limit = made._limiter.limit
    assert all(task.answer.error is None for task in done)
    assert 2 <= limit <= 5
    assert server.statuses[429] < 0.1 * 300
