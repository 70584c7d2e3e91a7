"""Cuts a conversation into windows: the feedback turns that one request judges, and the messages that it shows.

A window ends with the last message that it judges, since later messages say nothing about an earlier reply.
Neighbouring windows overlap: each shows some messages from before its first judged reply.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from drift_data.chats.turns import find_feedback_turns
from drift_data.judge.spur.options import WindowOptions


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive messages of a conversation, and which of them to judge."""

    first: int  # index in the conversation of the first message shown
    messages: Sequence[Mapping[str, str]]
    turns: Sequence[int]  # indices in the conversation of the judged messages, ascending


def cut_windows(
    messages: Sequence[Mapping[str, str]], options: WindowOptions, asked: Collection[int] | None = None
) -> Iterator[Window]:
    """Yield the windows of a conversation; each turn in `asked` is judged in exactly one of them.

    Args:
        messages: the messages of one conversation, with `role` and `content`.
        options: how large a window may be.
        asked: the feedback turns to judge; None: all. Turns that are not in `asked` are shown as context only. The
            cuts between windows do not depend on `asked`. So a window whose turns are all asked about stays the same,
            whatever is asked about in other windows.
    """
    turns = find_feedback_turns(messages)
    if not turns:
        return
    sizes = [
        min(len(message["content"] or ""), options.max_characters(message["role"])) for message in messages
    ]
    while turns:
        first = max(0, turns[0] - 1 - options.context)
        taken = 1
        while (
            taken < min(options.turns, len(turns))
            and sum(sizes[first : turns[taken] + 1]) <= options.characters
        ):
            taken += 1
        judged, turns = turns[:taken], turns[taken:]
        if asked is not None:
            judged = [turn for turn in judged if turn in asked]
        if judged:
            yield Window(first, messages[first : judged[-1] + 1], judged)
