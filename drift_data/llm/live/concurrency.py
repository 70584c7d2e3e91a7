"""How many requests a server gets at once: fewer when it refuses some, more while that brings more answers.

Additive increase, multiplicative decrease, with a slow start, and a look at the server's own speed: a higher
limit that does not bring more answers a second only makes a queue, and is taken back. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_START: Final = 8
_SHORTEST_ROUND: Final = 8  # answers
_STEP: Final = 1.25  # a raise is judged once the limit has grown by this factor
_GAIN: Final = 0.25  # of the raise: by so much at least the answers a second must have grown
_HOLD, _LONGEST_HOLD = 8, 256  # rounds after a raise that did not pay; each time twice as many
_SHORTEST_GAP, _LONGEST_GAP = 0.5, 30.0  # seconds without a request when even one at a time is refused


class Limiter:
    """Hands out places for requests; each place is given back by `answered`, `refused` or `failed`.

    A round is as many answers as there are places, or a few times as many where these are few. After a round in which all places were taken the limit
    doubles (slow start) or, once a request has been refused, grows by one.

    Args:
        maximum: of places.
        clock: seconds, from any moment on.
    """

    def __init__(self, maximum: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._maximum, self._clock = maximum, clock
        self.limit = min(_START, maximum)
        self.taken = self.highest = 0  # places: now, and the most at once
        self._slow_start = True
        self._paid: tuple[int, float] | None = None  # the last limit that paid, and its answers a second
        self._ceiling = maximum  # the limit is held there for some rounds: above, requests were refused
        self._hold, self._next_hold = 0, _HOLD  # rounds
        self._lowered = self._resume = float("-inf")  # moments
        self._gap = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._began, self._done, self._full = clock(), 0, False  # of this round

    def take_now(self) -> float | None:
        """Take a place and return the moment; None when there is no place or the server wants a pause."""
        now = self._clock()
        if self.taken >= self.limit or now < self._resume:
            return None
        self.taken += 1
        self.highest = max(self.highest, self.taken)
        self._full = self._full or self.taken >= self.limit
        return now

    async def take(self) -> float:
        """Wait for a place, take it and return the moment."""
        loop = asyncio.get_running_loop()
        while (moment := self.take_now()) is None:
            waiting = loop.create_future()
            self._waiting.append(waiting)
            pause = self._resume - self._clock()
            if pause > 0:
                loop.call_later(pause, self._wake)
            await waiting
        return moment

    def answered(self) -> None:
        """Give a place back: the server has answered."""
        self._gap /= 2
        self._done += 1
        if self._done >= self.limit * -(-_SHORTEST_ROUND // self.limit):
            self._end_round()
        self._give_back()

    def failed(self) -> None:
        """Give a place back: something went wrong that has nothing to do with load."""
        self._give_back()

    def refused(self, taken: float, wait: float = 0.0) -> None:
        """Give a place back: the server has too much to do.

        Args:
            taken: the moment the place was taken. Of the requests that were on their way together, only the
                first refusal lowers the limit.
            wait: seconds without any request that the server asks for.
        """
        now = self._clock()
        self._resume = max(self._resume, now + wait)
        if taken > self._lowered:
            if self.limit == 1:
                self._gap = min(max(2 * self._gap, _SHORTEST_GAP), _LONGEST_GAP)
                self._resume = max(self._resume, now + self._gap)
            self._ceiling = max(1, self.limit - 1)
            self.limit = max(1, self.limit // 2)
            self._lowered, self._slow_start, self._paid, self._hold = now, False, None, 0
            self._begin_round()
        self._give_back()

    def _begin_round(self) -> None:
        self._began, self._done = self._clock(), 0
        self._full = self.taken >= self.limit

    def _end_round(self) -> None:
        rate = self._done / max(self._clock() - self._began, 1e-9)
        if self._full:
            self._move(rate)
        self._begin_round()

    def _move(self, rate: float) -> None:
        """Choose the next limit after a round with all places taken."""
        before, rate_before = self._paid or (self.limit, rate)
        grown = self.limit / before
        if grown == 1:
            self._paid = (self.limit, (rate + rate_before) / 2)
        elif grown >= _STEP or self.limit >= self._ceiling:
            if rate / rate_before - 1 < _GAIN * (grown - 1):
                self.limit = before
                self._wait_some_rounds()
            else:
                self._paid = (self.limit, rate)
        if self._hold:
            self._hold -= 1
        elif self.limit < self._ceiling:
            self.limit = min(self._ceiling, self.limit * 2 if self._slow_start else self.limit + 1)
        elif self._ceiling < self._maximum:
            self._ceiling = self._maximum
            self._wait_some_rounds()

    def _wait_some_rounds(self) -> None:
        self._hold, self._next_hold = self._next_hold, min(2 * self._next_hold, _LONGEST_HOLD)
        self._slow_start = False

    def _give_back(self) -> None:
        self.taken -= 1
        self._wake()

    def _wake(self) -> None:
        """Let those who wait try again, as many as there are places."""
        places = self.limit - self.taken
        while places > 0 and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                places -= 1
