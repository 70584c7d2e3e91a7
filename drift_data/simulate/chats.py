"""Simulated chats: an assistant that errs, and users who complain, thank or move on, at stated rates.

Makes the logs with their true labels, and the chats that a base model learns from. Everything follows from
the seed. This module knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Final, Literal

from drift_data.schema import DSAT, NEUTRAL, SAT
from drift_data.simulate.options import PretrainOptions, UserOptions
from drift_data.simulate.users import CHAT_REPLIES, complaint, next_request, small_talk, thanks
from drift_data.simulate.world import (
    DIMENSIONS,
    Task,
    faults,
    random_task,
    reply_text,
    request_text,
    spoil,
)

ITEMS: Final = {  # the rubric item a complaint shows, by the dimension it names
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

    turn: int  # index of the message
    label: Literal["SAT", "DSAT", "NEUTRAL"]
    item: str | None
    reason: str


@dataclass
class Chat:
    """A simulated conversation and the truth about it."""

    messages: list[dict[str, str]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    # of every reply to a task: index of the message, the task, and whether it is a revision
    replies: list[tuple[int, Task, bool]] = field(default_factory=list)

    def say(self, role: str, content: str) -> None:
        """Append a message."""
        self.messages.append({"role": role, "content": content})

    def react(
        self, label: Literal["SAT", "DSAT", "NEUTRAL"], item: str | None, reason: str, text: str
    ) -> None:
        """Append a feedback turn."""
        self.verdicts.append(Verdict(len(self.messages), label, item, reason))
        self.say("user", text)


def draw_faults(quality: float, rng: Random) -> list[str]:
    """Draw the dimensions that a reply gets wrong; each is right with this probability."""
    return [name for name in DIMENSIONS if rng.random() >= quality]


def revision(task: Task, held: Task, named: str | None, mends: float, rng: Random) -> Task:
    """Return what a revision holds: the named fault is mended, every other fault with probability `mends`."""
    left = {name for name in faults(task, held) if name != named and rng.random() >= mends}
    values = {name: getattr(held if name in left else task, name) for name in DIMENSIONS}
    return Task(**values)


def complain(
    task: Task, held: Task, request: str, users: UserOptions, rng: Random
) -> tuple[str, str | None, str]:
    """Return (text, dimension it names or None, kind) of a complaint about a reply that has a fault."""
    kind = rng.random()
    if kind < users.asks_again:
        return request, None, "same request"
    named = None if kind < users.asks_again + users.vague else rng.choice(faults(task, held))
    return complaint(task, held, named, rng), named, named or "vague"


def logged_chat(
    quality: float, mends: float, users: UserOptions, held_out: Collection[Task], rng: Random
) -> Chat:
    """Draw one logged conversation. It ends with an assistant message, as in WildChat."""
    chat = Chat()
    task = draw_task(held_out, rng)
    request = request_text(task, rng)
    chat.say("user", request)
    held = spoil(task, draw_faults(quality, rng), rng)
    revised = False
    while True:
        chat.replies.append((len(chat.messages), task, revised))
        chat.say("assistant", reply_text(held, rng))
        wrong = faults(task, held)
        if (len(chat.messages) + 1) // 2 >= users.most_replies:
            return chat
        if rng.random() >= (1 - users.complains) ** len(wrong):
            text, named, kind = complain(task, held, request, users, rng)
            if rng.random() < users.instructed:
                text = f"{text}\n\n{users.instruction}"
            chat.react(DSAT, ITEMS[kind], f"complaint: {kind}; wrong: {', '.join(wrong)}", text)
            held, revised = revision(task, held, named, mends, rng), True
            continue
        reason = f"wrong: {', '.join(wrong) or 'nothing'}"
        gratitude = users.thanks_if_wrong if wrong else users.thanks_if_right
        if rng.random() < (users.thanks_if_mended if revised else gratitude):
            text = thanks(rng)
            if rng.random() < 0.5:
                chat.react(SAT, "Gratitude", f"thanks; {reason}", text)
                chat.say("assistant", rng.choice(CHAT_REPLIES))
                return chat
            task = draw_task(held_out, rng)
            request = request_text(task, rng)
            chat.react(SAT, "Gratitude", f"thanks and a new task; {reason}", f"{text} {request}")
        elif rng.random() >= users.goes_on:
            return chat
        else:
            hard = rng.random() < users.hard
            manner = "hard to tell" if hard else "plain"
            if rng.random() < users.small_talk:
                chat.react(NEUTRAL, None, f"small talk, {manner}; {reason}", small_talk(hard, rng))
                chat.say("assistant", rng.choice(CHAT_REPLIES))
                return chat
            before, task = task, draw_task(held_out, rng)
            request = request_text(task, rng)
            text = next_request(request, before, hard, rng)
            chat.react(NEUTRAL, None, f"new task, {manner}; {reason}", text)
        held, revised = spoil(task, draw_faults(quality, rng), rng), False


def draw_task(held_out: Collection[Task], rng: Random) -> Task:
    """Draw a task that is not held out."""
    while (task := random_task(rng)) in held_out:
        pass
    return task


def pretrain_chats(
    options: PretrainOptions, held_out: Collection[Task], rng: Random
) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yield (phase, messages), each ending with a reply.

    Of a "clean" chat only the last reply is worth learning: a perfect one, or a revision that mends what was
    named and other faults now and then; were revisions perfect too, the model would learn to ignore what the
    complaint says. Every reply of a "noisy" chat is of the quality the model is to have.
    """
    for _ in range(options.clean):
        chat = logged_chat(options.quality, options.mends, options.users, held_out, rng)
        index, task, revised = rng.choice(chat.replies)
        last = chat.messages[index] if revised else {"role": "assistant", "content": reply_text(task, rng)}
        yield "clean", [*chat.messages[:index], last]
    for _ in range(options.noisy):
        yield "noisy", logged_chat(options.quality, options.mends, options.users, held_out, rng).messages
