"""Draws simulated chats between an assistant that errs and users who complain, give thanks or move on.

The chats are those of the logs, with their true labels, and those that a base model learns from. Everything that is
drawn follows from the random generator that the caller passes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, Literal

from drift_data.schema import DSAT, NEUTRAL, SAT
from drift_data.simulate.options import PretrainOptions, UserOptions
from drift_data.simulate.users import (
    SMALL_TALK_REPLIES,
    word_complaint,
    word_next_request,
    word_small_talk,
    word_thanks,
)
from drift_data.simulate.world import (
    DIMENSIONS,
    ListTask,
    draw_random_task,
    find_faults,
    spoil,
    word_request,
    write_reply,
)

COMPLAINT_ITEMS: Final = {  # dimension that a complaint names, or its kind → rubric item that the complaint shows
    "count": "Ignored",
    "category": "Factual_Error",
    "layout": "Style",
    "opening": "Ignored",
    "closing": "Ignored",
    "stars": "Ignored",
    "vague": "Negative_Feedback",
    "same request": "Revision",
}


@dataclass(frozen=True)
class Verdict:
    """The true satisfaction of one feedback turn."""

    turn: int  # index of the feedback message
    label: Literal["SAT", "DSAT", "NEUTRAL"]
    item: str | None  # rubric item that the turn shows; None for a neutral turn
    reason: str  # what the user did, and what was wrong with the reply


@dataclass
class Chat:
    """A simulated conversation and the truth about its feedback turns."""

    messages: list[dict[str, str]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    # One entry for every reply to a task: index of the message, the task, and whether the reply is a revision.
    replies: list[tuple[int, ListTask, bool]] = field(default_factory=list)

    def say(self, role: str, content: str) -> None:
        """Append a message."""
        self.messages.append({"role": role, "content": content})

    def react(
        self, label: Literal["SAT", "DSAT", "NEUTRAL"], item: str | None, reason: str, text: str
    ) -> None:
        """Append a user message that is a feedback turn, with its verdict."""
        self.verdicts.append(Verdict(len(self.messages), label, item, reason))
        self.say("user", text)


def draw_faults(quality: float, rng: Random) -> list[str]:
    """Draw the dimensions that a reply gets wrong; each dimension is right with probability `quality`."""
    return [name for name in DIMENSIONS if rng.random() >= quality]


def draw_revision(task: ListTask, held: ListTask, named: str | None, mends: float, rng: Random) -> ListTask:
    """Draw what a revision holds. The fault that the complaint names is mended, each other fault with chance `mends`.

    Args:
        task: what was asked for.
        held: what the reply before holds.
        named: the dimension that the complaint names, or None.
        mends: chance to mend a fault that was not named.
        rng: random generator.
    """
    left = {name for name in find_faults(task, held) if name != named and rng.random() >= mends}
    values = {name: getattr(held if name in left else task, name) for name in DIMENSIONS}
    return ListTask(**values)


def draw_complaint(
    task: ListTask, held: ListTask, request: str, users: UserOptions, rng: Random
) -> tuple[str, str | None, str]:
    """Draw a complaint about a reply that has a fault.

    Returns:
        Its text, the dimension that it names (or None), and its kind: a key of `COMPLAINT_ITEMS`.
    """
    kind = rng.random()
    if kind < users.asks_again:
        return request, None, "same request"
    named = None if kind < users.asks_again + users.vague else rng.choice(find_faults(task, held))
    return word_complaint(task, held, named, rng), named, named or "vague"


def draw_logged_chat(
    quality: float, mends: float, users: UserOptions, held_out: Collection[ListTask], rng: Random
) -> Chat:
    """Draw one logged chat; it ends with an assistant message, as chats in WildChat do.

    Args:
        quality: chance that a reply gets one dimension right.
        mends: chance that a revision mends a fault that was not named.
        users: how the user behaves.
        held_out: tasks that must not be asked for.
        rng: random generator.
    """
    chat = Chat()
    task = draw_task(held_out, rng)
    request = word_request(task, rng)
    chat.say("user", request)
    held = spoil(task, draw_faults(quality, rng), rng)
    revised = False
    while True:
        chat.replies.append((len(chat.messages), task, revised))
        chat.say("assistant", write_reply(held, rng))
        wrong = find_faults(task, held)
        if (len(chat.messages) + 1) // 2 >= users.most_replies:
            return chat
        if rng.random() >= (1 - users.complains) ** len(wrong):
            text, named, kind = draw_complaint(task, held, request, users, rng)
            if rng.random() < users.instructed:
                text = f"{text}\n\n{users.instruction}"
            chat.react(DSAT, COMPLAINT_ITEMS[kind], f"complaint: {kind}; wrong: {', '.join(wrong)}", text)
            held, revised = draw_revision(task, held, named, mends, rng), True
            continue
        reason = f"wrong: {', '.join(wrong) or 'nothing'}"
        gratitude = users.thanks_if_wrong if wrong else users.thanks_if_right
        if rng.random() < (users.thanks_if_mended if revised else gratitude):
            text = word_thanks(rng)
            if rng.random() < 0.5:
                chat.react(SAT, "Gratitude", f"thanks; {reason}", text)
                chat.say("assistant", rng.choice(SMALL_TALK_REPLIES))
                return chat
            task = draw_task(held_out, rng)
            request = word_request(task, rng)
            chat.react(SAT, "Gratitude", f"thanks and a new task; {reason}", f"{text} {request}")
        elif rng.random() >= users.goes_on:
            return chat
        else:
            hard = rng.random() < users.hard
            manner = "hard to tell" if hard else "plain"
            if rng.random() < users.small_talk:
                chat.react(NEUTRAL, None, f"small talk, {manner}; {reason}", word_small_talk(hard, rng))
                chat.say("assistant", rng.choice(SMALL_TALK_REPLIES))
                return chat
            before, task = task, draw_task(held_out, rng)
            request = word_request(task, rng)
            text = word_next_request(request, before, hard, rng)
            chat.react(NEUTRAL, None, f"new task, {manner}; {reason}", text)
        held, revised = spoil(task, draw_faults(quality, rng), rng), False


def draw_task(held_out: Collection[ListTask], rng: Random) -> ListTask:
    """Draw a task that is not held out."""
    while (task := draw_random_task(rng)) in held_out:
        pass
    return task


def iter_pretrain_chats(
    options: PretrainOptions, held_out: Collection[ListTask], rng: Random
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yield (phase, messages) of the chats that the base model learns from; each ends with a reply.

    In a "clean" chat only the last reply is worth learning. It is perfect, or it is a revision that mends the named
    fault and each other fault only with some chance: if revisions were perfect too, the model would learn to ignore
    what the complaint says. In a "noisy" chat every reply has the quality that the model is to have.
    """
    for _ in range(options.clean):
        chat = draw_logged_chat(options.quality, options.mends, options.users, held_out, rng)
        index, task, revised = rng.choice(chat.replies)
        last = chat.messages[index] if revised else {"role": "assistant", "content": write_reply(task, rng)}
        yield "clean", [*chat.messages[:index], last]
    for _ in range(options.noisy):
        yield "noisy", draw_logged_chat(options.quality, options.mends, options.users, held_out, rng).messages
