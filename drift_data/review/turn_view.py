"""Prepares one judged turn for the page: folds long messages, spells out control characters, marks the evidence.

The result is text of limited length. It is not escaped for HTML: the page does that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from drift_data.chats.safe_text import escape_invisible

MAX_CHARACTERS: Final = 30_000  # most characters of a message that the page holds; the rest is not shown
# Kind of message → number of its characters that the page shows before the message is unfolded.
_HEAD_CHARACTERS: Final = {"context": 0, "reply": 2_500, "message": 4_000}
_SUMMARY_CHARACTERS: Final = 160  # length of the line that stands for a folded message
# Numbers of messages around the judged reply and the user's message after it: `TurnView.earlier` (the page folds all of
# them into one line), `TurnView.before` and `TurnView.after`.
_EARLIER_MESSAGES, _MESSAGES_BEFORE, _MESSAGES_AFTER = 20, 3, 2
_EVIDENCE_CHARACTERS: Final = 1_000  # the message is searched for this many first characters of the evidence

TextSpan = tuple[int, int]  # start and end in characters


@dataclass(frozen=True)
class TextPiece:
    """Part of a message."""

    text: str
    marked: bool = False  # whether the piece belongs to the judge's evidence


@dataclass(frozen=True)
class MessageView:
    """One message as the page shows it."""

    role: str
    summary: str  # one line
    head: Sequence[TextPiece]  # seen at once
    rest: Sequence[TextPiece]  # seen when unfolded
    folded: int  # characters of `rest`
    cut: int  # characters that are not shown at all
    marked_in_rest: bool  # whether part of the evidence is in `rest`


@dataclass(frozen=True)
class TurnView:
    """The judged reply, the user's message after it, and what was said before and after."""

    earlier: Sequence[MessageView]  # messages before `before`
    left_out: int  # messages before `earlier`, which are not shown
    before: Sequence[MessageView]  # messages right before the reply
    reply: MessageView
    message: MessageView
    after: Sequence[MessageView]  # messages right after the user's message
    evidence_found: bool  # whether the judge's evidence stands in the message


def make_turn_view(messages: Sequence[Mapping[str, Any]], turn: int, evidence: str | None) -> TurnView:
    """Return what to show of a turn.

    Args:
        messages: messages of the conversation.
        turn: index of the feedback message.
        evidence: what the judge quotes from the feedback message.
    """
    span = find_evidence(messages[turn]["content"], evidence) if evidence else None
    start = max(0, turn - 1 - _MESSAGES_BEFORE)
    first = max(0, start - _EARLIER_MESSAGES)
    return TurnView(
        earlier=[make_message_view(message, "context") for message in messages[first:start]],
        left_out=first,
        before=[make_message_view(message, "context") for message in messages[start : turn - 1]],
        reply=make_message_view(messages[turn - 1], "reply"),
        message=make_message_view(messages[turn], "message", span),
        after=[
            make_message_view(message, "context")
            for message in messages[turn + 1 : turn + 1 + _MESSAGES_AFTER]
        ],
        evidence_found=span is not None,
    )


def make_message_view(message: Mapping[str, Any], kind: str, span: TextSpan | None = None) -> MessageView:
    """Return one message, folded after the number of characters that its kind shows at once.

    Args:
        message: role and content.
        kind: "context", "reply" or "message".
        span: where the evidence stands in the message.
    """
    text, head = message["content"], _HEAD_CHARACTERS[kind]
    if len(text) <= head + 200:  # 200 characters are not worth a fold
        head = len(text)
    return MessageView(
        role=escape_invisible(str(message["role"]), 20),
        summary=escape_invisible(
            " ".join(text[: 2 * _SUMMARY_CHARACTERS].split())[:_SUMMARY_CHARACTERS], _SUMMARY_CHARACTERS
        )
        + ("…" if len(text) > _SUMMARY_CHARACTERS else ""),
        head=_cut_pieces(text, 0, head, span),
        rest=_cut_pieces(text, head, min(len(text), MAX_CHARACTERS), span),
        folded=min(len(text), MAX_CHARACTERS) - head,
        cut=max(0, len(text) - MAX_CHARACTERS),
        marked_in_rest=span is not None and span[1] > head,
    )


def find_evidence(message: str, evidence: str) -> TextSpan | None:
    """Return where a quotation stands in a message, whatever its white space and case; None if it is not in there."""
    quoted = evidence[:_EVIDENCE_CHARACTERS].strip().strip("\"'“”….")
    at = message.find(quoted) if quoted else -1
    if at >= 0:
        return at, at + len(quoted)
    words = [re.escape(word) for word in quoted.split()]
    found = re.search(r"\s+".join(words), message[:MAX_CHARACTERS], re.IGNORECASE) if words else None
    return found.span() if found else None


def _cut_pieces(text: str, start: int, end: int, span: TextSpan | None) -> list[TextPiece]:
    """Return the text from `start` to `end` in pieces, cut at the ends of the marked span."""
    first, last = span or (end, end)
    cuts = [start, min(max(first, start), end), min(max(last, start), end), end]
    pieces = [
        TextPiece(escape_invisible(text[a:b], b - a, keep="\n\t"), marked)
        for (a, b), marked in zip(pairwise(cuts), (False, True, False), strict=True)
    ]
    return [piece for piece in pieces if piece.text]
