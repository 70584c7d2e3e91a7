"""How a round of request files ends: what the caller of a `BatchFiles` catches, and what people are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from drift_data.llm.batch.progress import Ledger

MISSING: Final = "not in the results"
FOLLOW_UP: Final = "follow-up of an answer that could not be used"
Value = TypeVar("Value")


class AwaitingResults(Exception):
    """Request files lie ready and somebody has to send them: a normal end of an offline run, without labels.

    The message says what to do next.

    Args:
        files: to send.
        requests: in them.
        tokens: of their prompts, estimated.
        most: what the answers can cost.
        again: why requests are in them that were asked before.
        put_off: requests that the budget has no room for now.
    """

    def __init__(
        self,
        files: Sequence[Path],
        requests: int,
        tokens: int,
        most: float,
        again: Counter[str],
        put_off: int,
    ) -> None:
        self.files, self.requests, self.tokens = tuple(files), requests, tokens
        super().__init__("\n".join(self._lines(most, again, put_off)))

    def _lines(self, most: float, again: Counter[str], put_off: int) -> Iterator[str]:
        first, *others = self.files
        shown = f"{first} … {others[-1].name} ({len(self.files)} files)" if others else str(first)
        price = f", at most {most:,.2f} in price" if most else ""
        yield f"{self.requests:,} requests, about {self.tokens:,} prompt tokens{price}: {shown}"
        if again:
            yield f"Asked again, or because of an answer: {counted(again)}."
        yield (
            "Send them through the Batch API, or by anything that answers in its format. Then run the same command "
            "with RESULTS=<folder, files or glob of all that came back, errors included>."
        )
        if again[MISSING]:
            yield (
                "If files of the round before are still being worked on, wait for their results instead: what is "
                "sent again is paid again."
            )
        if again:
            yield "To finish without them: the same command with FINAL=1."
        if put_off:
            yield f"{put_off:,} more requests wait until it is known what these cost (BUDGET)."


class AnotherRound(Exception):
    """More is known than when the pass began: make the same tasks again and go on."""


def in_rounds(stage: Callable[[], Value]) -> Value:
    """Run what makes tasks and hands them to a `BatchFiles`, as often as it takes, and return its value."""
    while True:
        try:
            return stage()
        except AnotherRound:
            continue


def counted(reasons: Counter[str], most: int | None = None) -> str:
    """Return counts by reason as text, the most frequent first."""
    return ", ".join(f"{count:,} × {reason}" for reason, count in reasons.most_common(most))


def nothing_answered(ledger: Ledger, where: str) -> str:
    """Return what to tell when results hold no answer at all."""
    example = next((ledger.details[reason] for reason in ledger.reasons if reason in ledger.details), None)
    such = f", such as {example!r}" if example else ""
    return (
        f"{where}: no request was answered: {counted(ledger.reasons, 3) or 'no line came back'}{such}. Mend what it "
        "says and run again; FINAL=1 finishes without these answers."
    )


def findings(ledger: Ledger) -> Iterator[str]:
    """Yield what to tell of the results that were read, and of what nobody can use."""
    if not ledger.lines:
        return
    yield (
        f"{ledger.lines:,} result lines: answers to {ledger.answers:,} requests, {ledger.doubled:,} doubled, "
        f"{ledger.malformed:,} malformed; failed: {counted(ledger.reasons) or 'none'}"
    )
    if unknown := ledger.unknown():
        yield (
            f"{unknown:,} of these requests are none of this run's: other prompts, another rubric, model or "
            "parameters, or other conversations. Their results are not used."
        )
    for line in ledger.examples:
        yield f"{line.location} is no result: {line.reason}"
