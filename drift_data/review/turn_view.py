"""One judged turn as the page shows it: folded, spelled out, evidence marked. Knows no HTML and no decision.

What comes out is text that the page still has to escape; nothing of it is longer than the limits here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from drift_data.chats.safe_text import visible

LONGEST: Final = 30_000  # characters of a message that can be unfolded
_HEAD: Final = {"context": 0, "reply": 2_500, "message": 4_000}  # shown before anything is unfolded
_SUMMARY: Final = 160
_EARLIER, _BEFORE, _AFTER = (
    20,
    3,
    2,
)  # messages around the judged reply and its answer; earlier ones are folded
_EVIDENCE: Final = 1_000

Span = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """Part of a message; marked: the judge's evidence."""

    text: str
    marked: bool = False


@dataclass(frozen=True)
class Said:
    """One message: what is seen at once, and what can be unfolded."""

    role: str
    summary: str
    head: Sequence[Piece]
    rest: Sequence[Piece]
    folded: int  # characters of the rest
    cut: int  # characters that are not shown at all
    marked_in_rest: bool


@dataclass(frozen=True)
class Exchange:
    """The judged reply, the user's message after it, and what was said before and after."""

    earlier: Sequence[Said]
    left_out: int  # messages before these
    before: Sequence[Said]
    reply: Said
    message: Said
    after: Sequence[Said]
    evidence_found: bool


def exchange(messages: Sequence[Mapping[str, Any]], turn: int, evidence: str | None) -> Exchange:
    """Return what to show of a turn.

    Args:
        messages: of the conversation.
        turn: index of the feedback message.
        evidence: what the judge quotes of it.
    """
    span = find(messages[turn]["content"], evidence) if evidence else None
    start = max(0, turn - 1 - _BEFORE)
    first = max(0, start - _EARLIER)
    return Exchange(
        earlier=[said(message, "context") for message in messages[first:start]],
        left_out=first,
        before=[said(message, "context") for message in messages[start : turn - 1]],
        reply=said(messages[turn - 1], "reply"),
        message=said(messages[turn], "message", span),
        after=[said(message, "context") for message in messages[turn + 1 : turn + 1 + _AFTER]],
        evidence_found=span is not None,
    )


def said(message: Mapping[str, Any], kind: str, span: Span | None = None) -> Said:
    """Return one message, folded after as much as its kind is shown of."""
    text, head = message["content"], _HEAD[kind]
    if len(text) <= head + 200:  # not worth a fold
        head = len(text)
    return Said(
        role=visible(str(message["role"]), 20),
        summary=visible(" ".join(text[: 2 * _SUMMARY].split())[:_SUMMARY], _SUMMARY)
        + ("…" if len(text) > _SUMMARY else ""),
        head=_pieces(text, 0, head, span),
        rest=_pieces(text, head, min(len(text), LONGEST), span),
        folded=min(len(text), LONGEST) - head,
        cut=max(0, len(text) - LONGEST),
        marked_in_rest=span is not None and span[1] > head,
    )


def find(message: str, evidence: str) -> Span | None:
    """Return where a quotation stands in a message, whatever its white space and case; None when nowhere."""
    quoted = evidence[:_EVIDENCE].strip().strip("\"'“”….")
    at = message.find(quoted) if quoted else -1
    if at >= 0:
        return at, at + len(quoted)
    words = [re.escape(word) for word in quoted.split()]
    found = re.search(r"\s+".join(words), message[:LONGEST], re.IGNORECASE) if words else None
    return found.span() if found else None


def _pieces(text: str, start: int, end: int, span: Span | None) -> list[Piece]:
    """Return a part of a text, cut at the ends of the span."""
    first, last = span or (end, end)
    cuts = [start, min(max(first, start), end), min(max(last, start), end), end]
    pieces = [
        Piece(visible(text[a:b], b - a, keep="\n\t"), marked)
        for (a, b), marked in zip(pairwise(cuts), (False, True, False), strict=True)
    ]
    return [piece for piece in pieces if piece.text]
