"""Finds out how many requests to send to a server at once: fewer after a refusal, more while that is faster.

The method is additive increase, multiplicative decrease, with a slow start. Besides, the server's speed is measured: a
higher limit that does not bring more answers a second only makes a queue, and is taken back.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

_FIRST_LIMIT: Final = 8  # requests at once
_MIN_ROUND: Final = 8  # fewest answers in a round
_JUDGED_GROWTH: Final = 1.25  # a raise is judged once the limit has grown by this factor
# A raise pays when the answers a second grow by at least this share of the limit's own growth.
_MIN_GAIN: Final = 0.25
# Rounds for which the limit is held after a raise that did not pay: at first, and at most. They double each time.
_FIRST_HOLD, _MAX_HOLD = 8, 256
# Seconds without any request when even one at a time is refused: at first, and at most. They double each time.
_MIN_PAUSE, _MAX_PAUSE = 0.5, 30.0


class Limiter:
    """Hands out slots for requests; each slot comes back by `release_answered`, `release_refused` or `release_failed`.

    A round has as many answers as the smallest multiple of `limit` that is at least 8. After a round in which all slots
    were taken, the limit doubles (slow start) or, once a request has been refused, grows by one.

    Args:
        maximum: most slots.
        clock: returns seconds since any fixed moment.
    """

    def __init__(self, maximum: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_limit, self._clock = maximum, clock
        self.limit = min(_FIRST_LIMIT, maximum)
        self.taken = self.most_taken = 0  # slots: now, and the most at once
        self._slow_start = True
        # The last limit that paid, and how many answers a second it brought.
        self._last_paying: tuple[int, float] | None = None
        # The highest limit for now: after a refusal, one below the limit at which the server refused. When the limit
        # gets there, the ceiling goes back to `maximum`, and the limit is held for some rounds.
        self._ceiling = maximum
        self._rounds_to_hold = 0  # rounds for which the limit is still held
        self._next_hold = _FIRST_HOLD  # rounds of the next hold
        self._lowered_at = float("-inf")  # moment at which the limit was last lowered
        self._resume_at = float("-inf")  # moment before which no request is sent
        self._pause_seconds = 0.0  # length of the last pause, halved with each answer
        # Coroutines that wait for a slot, the longest waiting first.
        self._waiting: deque[asyncio.Future[None]] = deque()
        # The present round: when it began, its answers, whether all slots were taken at some moment.
        self._round_began, self._round_answers, self._round_was_full = clock(), 0, False

    def acquire_now(self) -> float | None:
        """Take a slot and return the moment; return None when no slot is free or the server has asked for a pause."""
        now = self._clock()
        if self.taken >= self.limit or now < self._resume_at:
            return None
        self.taken += 1
        self.most_taken = max(self.most_taken, self.taken)
        self._round_was_full = self._round_was_full or self.taken >= self.limit
        return now

    async def acquire(self) -> float:
        """Wait for a slot, take it and return the moment."""
        loop = asyncio.get_running_loop()
        while (moment := self.acquire_now()) is None:
            waiting = loop.create_future()
            self._waiting.append(waiting)
            pause = self._resume_at - self._clock()
            if pause > 0:
                loop.call_later(pause, self._wake)
            await waiting
        return moment

    def release_answered(self) -> None:
        """Give a slot back: the server has answered."""
        self._pause_seconds /= 2
        self._round_answers += 1
        if self._round_answers >= self.limit * -(-_MIN_ROUND // self.limit):
            self._end_round()
        self._release()

    def release_failed(self) -> None:
        """Give a slot back: the request failed, for a reason that has nothing to do with load."""
        self._release()

    def release_refused(self, taken: float, wait: float = 0.0) -> None:
        """Give a slot back: the server has too much to do.

        Args:
            taken: the moment at which the slot was taken. Of requests that were on their way together, only the
                first refusal lowers the limit.
            wait: seconds for which the server asks to get no request at all.
        """
        now = self._clock()
        self._resume_at = max(self._resume_at, now + wait)
        if taken > self._lowered_at:
            if self.limit == 1:
                self._pause_seconds = min(max(2 * self._pause_seconds, _MIN_PAUSE), _MAX_PAUSE)
                self._resume_at = max(self._resume_at, now + self._pause_seconds)
            self._ceiling = max(1, self.limit - 1)
            self.limit = max(1, self.limit // 2)
            self._lowered_at, self._slow_start, self._last_paying, self._rounds_to_hold = now, False, None, 0
            self._begin_round()
        self._release()

    def _begin_round(self) -> None:
        self._round_began, self._round_answers = self._clock(), 0
        self._round_was_full = self.taken >= self.limit

    def _end_round(self) -> None:
        rate = self._round_answers / max(self._clock() - self._round_began, 1e-9)
        if self._round_was_full:
            self._choose_limit(rate)
        self._begin_round()

    def _choose_limit(self, rate: float) -> None:
        """Choose the next limit after a round in which all slots were taken.

        Args:
            rate: answers a second in that round.
        """
        before, rate_before = self._last_paying or (self.limit, rate)
        grown = self.limit / before
        if grown == 1:
            self._last_paying = (self.limit, (rate + rate_before) / 2)
        elif grown >= _JUDGED_GROWTH or self.limit >= self._ceiling:
            if rate / rate_before - 1 < _MIN_GAIN * (grown - 1):
                self.limit = before
                self._hold_limit()
            else:
                self._last_paying = (self.limit, rate)
        if self._rounds_to_hold:
            self._rounds_to_hold -= 1
        elif self.limit < self._ceiling:
            self.limit = min(self._ceiling, self.limit * 2 if self._slow_start else self.limit + 1)
        elif self._ceiling < self._max_limit:
            self._ceiling = self._max_limit
            self._hold_limit()

    def _hold_limit(self) -> None:
        self._rounds_to_hold, self._next_hold = self._next_hold, min(2 * self._next_hold, _MAX_HOLD)
        self._slow_start = False

    def _release(self) -> None:
        self.taken -= 1
        self._wake()

    def _wake(self) -> None:
        """Let as many waiting coroutines try again as there are free slots."""
        free = self.limit - self.taken
        while free > 0 and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                free -= 1
