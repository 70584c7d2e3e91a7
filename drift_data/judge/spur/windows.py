"""Cuts a conversation into windows: the feedback turns that one request judges, and the messages it shows.

A window ends with the last message it judges, since what comes later says nothing about an earlier reply.
Neighbours overlap: each shows some messages from before its first judged reply. It knows no prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from drift_data.chats.turns import feedback_turns
from drift_data.judge.spur.options import WindowOptions


@dataclass(frozen=True, slots=True)
class Window:
    """Some messages of a conversation and which of them to judge."""

    first: int  # index in the conversation of the first message shown
    messages: Sequence[Mapping[str, str]]
    turns: Sequence[int]  # indices in the conversation of the judged messages, ascending


def windows(
    messages: Sequence[Mapping[str, str]], options: WindowOptions, asked: Collection[int] | None = None
) -> Iterator[Window]:
    """Yield the windows of a conversation; each turn that is asked about is judged in exactly one.

    Args:
        messages: of one conversation, with `role` and `content`.
        options: sizes.
        asked: the feedback turns to judge; None: all. They do not move the cuts: a window that is asked about
            whole is the same, whatever the others are asked; other turns are shown as context only.
    """
    turns = feedback_turns(messages)
    if not turns:
        return
    sizes = [min(len(message["content"] or ""), options.limit(message["role"])) for message in messages]
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
