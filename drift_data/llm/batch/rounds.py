"""Says how a round of request files ended: exceptions for the caller of `BatchBackend`, and messages for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from drift_data.llm.batch.progress import BatchProgress

# Why a request is in a round's files although earlier requests were answered.
NOT_IN_RESULTS: Final = "not in the results"
FOLLOW_UP: Final = "follow-up of an earlier answer"
Value = TypeVar("Value")


class AwaitingResults(Exception):
    """Request files lie ready, and somebody has to send them: the normal end of an offline run, which makes no table.

    The message says what to do next.

    Args:
        files: the files to send.
        requests: how many requests they hold.
        tokens: prompt tokens in them, estimated.
        most: the most that the answers can cost.
        again: why requests are in the files although earlier ones were answered → how many requests.
        put_off: requests for which the budget has no room until others are answered.
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
            yield f"Requests that come after earlier answers: {describe_counts(again)}."
        yield (
            "Send them through the Batch API, or by anything that answers in its format. Then run the same command "
            "with RESULTS=<folder, files or glob of all that came back, errors included>."
        )
        if again[NOT_IN_RESULTS]:
            yield (
                "If files of the round before are still being worked on, wait for their results instead: what is "
                "sent again is paid again."
            )
        if again:
            yield "To finish without these answers, run the same command with FINAL=1."
        if put_off:
            yield f"{put_off:,} more requests wait until it is known how much of the budget (BUDGET=) these take."


class AnotherRound(Exception):
    """Answers have come since the pass began: the caller makes the same tasks again and goes on."""


def run_in_rounds(stage: Callable[[], Value]) -> Value:
    """Call a function that hands tasks to a `BatchBackend` until it ends without `AnotherRound`; return its value."""
    while True:
        try:
            return stage()
        except AnotherRound:
            continue


def describe_counts(reasons: Counter[str], most: int | None = None) -> str:
    """Return counts by reason as text, the most frequent first."""
    return ", ".join(f"{count:,} × {reason}" for reason, count in reasons.most_common(most))


def explain_no_answers(progress: BatchProgress, where: str) -> str:
    """Return the message for results that hold no answer at all.

    Args:
        progress: what was read.
        where: names the results, for the message.
    """
    example = next(
        (
            progress.example_details[reason]
            for reason in progress.reasons
            if reason in progress.example_details
        ),
        None,
    )
    such = f", such as {example!r}" if example else ""
    return (
        f"{where}: no request was answered: {describe_counts(progress.reasons, 3) or 'no line came back'}{such}. "
        "Mend the cause and run again; FINAL=1 finishes without these answers."
    )


def describe_results(progress: BatchProgress) -> Iterator[str]:
    """Yield lines for people about the results that were read, and about those that cannot be used."""
    if not progress.lines:
        return
    yield (
        f"{progress.lines:,} result lines: answers to {progress.answers:,} requests, {progress.repeated:,} doubled, "
        f"{progress.malformed:,} malformed; failed: {describe_counts(progress.reasons) or 'none'}"
    )
    if unknown := progress.count_unknown():
        yield (
            f"{unknown:,} of these requests do not belong to this run: they have other prompts, another rubric, "
            "model or parameters, or other conversations. Their results are not used."
        )
    for line in progress.malformed_examples:
        yield f"{line.location} is not a result: {line.reason}"
