"""Defines the simulated task: how a request words it, what a reply holds, and how good the reply is.

A task asks for a few items of one category in a layout, with an opening line, a closing line and perhaps a
star after each item: six dimensions that a reply gets right or wrong independently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Final

NUMBERS: Final = {"two": 2, "three": 3, "four": 4}
CATEGORIES: Final = {
    "fruits": ("apple", "pear", "plum", "grape", "lemon", "cherry"),
    "animals": ("dog", "cat", "horse", "cow", "sheep", "goat"),
    "colors": ("red", "blue", "green", "yellow", "black", "white"),
    "tools": ("hammer", "saw", "drill", "wrench", "pliers", "chisel"),
    "drinks": ("water", "tea", "coffee", "milk", "juice", "cocoa"),
    "cities": ("paris", "rome", "tokyo", "cairo", "lima", "oslo"),
    "sports": ("tennis", "golf", "rugby", "hockey", "judo", "chess"),
    "trees": ("oak", "pine", "birch", "maple", "cedar", "willow"),
}
OPENINGS: Final = {"hello": "Hello!", "sure": "Sure!", "okay": "Okay!"}
CLOSINGS: Final = {"bye": "Bye!", "enjoy": "Enjoy!", "cheers": "Cheers!"}
LAYOUTS: Final = {
    "plain": ("in one line", "on a single line"),
    "numbered": ("as a numbered list", "with numbers"),
    "dashed": ("as a dashed list", "with dashes"),
}

_NUMBER_WORDS = {value: word for word, value in NUMBERS.items()}
_LAYOUT_OF = {phrase: layout for layout, phrases in LAYOUTS.items() for phrase in phrases}
_CATEGORY_OF = {item: category for category, items in CATEGORIES.items() for item in items}
_OPENING_OF = {line: word for word, line in OPENINGS.items()}
_CLOSING_OF = {line: word for word, line in CLOSINGS.items()}
# Phrases of a request; one of each is drawn.
_ASK = ("give me", "list", "name", "i need", "write down", "show me")
_START = ("start with", "begin with")
_END = ("end with", "finish with")
_STARS = ("put a star after each.", "add a star to each item.")


def _make_pattern(words: Mapping[str, object] | Sequence[str]) -> str:
    """Return a regular expression that matches any of the words."""
    return "|".join(map(re.escape, words))


_REQUEST = re.compile(
    rf"\b({_make_pattern(NUMBERS)}) ({_make_pattern(CATEGORIES)}) ({_make_pattern(_LAYOUT_OF)})\. "
    rf"(?:{_make_pattern(_START)}) ({_make_pattern(OPENINGS)}) and (?:{_make_pattern(_END)}) ({_make_pattern(CLOSINGS)})\.( (?:{_make_pattern(_STARS)}))?"
)
_ITEM = re.compile(r"(\S+)( \*)?")
_NUMBERED = re.compile(r"\d+\. (.+)")


@dataclass(frozen=True)
class ListTask:
    """A list that a request asks for, or that a reply holds. None and "" mean that nothing recognisable is there."""

    count: int
    category: str | None
    layout: str | None
    opening: str
    closing: str
    stars: bool | None


DIMENSIONS: Final = tuple(field.name for field in fields(ListTask))


def draw_random_task(rng: Random) -> ListTask:
    """Draw a task; all 1,296 are equally likely."""
    return ListTask(
        rng.choice(tuple(NUMBERS.values())),
        rng.choice(tuple(CATEGORIES)),
        rng.choice(tuple(LAYOUTS)),
        rng.choice(tuple(OPENINGS)),
        rng.choice(tuple(CLOSINGS)),
        rng.random() < 0.5,
    )


def word_request(task: ListTask, rng: Random) -> str:
    """Word a task as a user types it; `parse_request` reads it back."""
    layout = rng.choice(LAYOUTS[task.layout or "plain"])
    text = (
        f"{rng.choice(_ASK)} {_NUMBER_WORDS[task.count]} {task.category} {layout}. "
        f"{rng.choice(_START)} {task.opening} and {rng.choice(_END)} {task.closing}."
    )
    return f"{text} {rng.choice(_STARS)}" if task.stars else text


def parse_request(text: str) -> ListTask | None:
    """Return the task that a user message asks for; None if it holds no request."""
    found = _REQUEST.search(text)
    if found is None:
        return None
    number, category, layout, opening, closing, stars = found.groups()
    return ListTask(NUMBERS[number], category, _LAYOUT_OF[layout], opening, closing, stars is not None)


def spell_number(count: int) -> str:
    """Return the word for a number, such as "three"; digits if requests have no word for it."""
    return _NUMBER_WORDS.get(count, str(count))


def spoil(task: ListTask, dimensions: Sequence[str], rng: Random) -> ListTask:
    """Draw what a reply holds that gets exactly these dimensions of a task wrong.

    Raises:
        ValueError: there is no such dimension.
    """
    wrong: dict[str, object] = {}
    for name in dimensions:
        if name == "count":
            wrong[name] = rng.choice([n for n in NUMBERS.values() if n != task.count])
        elif name == "category":
            wrong[name] = rng.choice([c for c in CATEGORIES if c != task.category])
        elif name == "layout":
            wrong[name] = rng.choice([f for f in LAYOUTS if f != task.layout])
        elif name == "opening":
            wrong[name] = rng.choice([o for o in (*OPENINGS, "") if o != task.opening])
        elif name == "closing":
            wrong[name] = rng.choice([c for c in (*CLOSINGS, "") if c != task.closing])
        elif name == "stars":
            wrong[name] = not task.stars
        else:
            raise ValueError(f"no such dimension: {name}")
    return replace(task, **wrong)  # type: ignore[arg-type]


def write_reply(held: ListTask, rng: Random) -> str:
    """Write a reply that holds this list, with items drawn without repeats; `parse_reply` reads it back."""
    mark = " *" if held.stars else ""
    items = [item + mark for item in rng.sample(CATEGORIES[held.category or "fruits"], held.count)]
    if held.layout == "numbered":
        body = [f"{number}. {item}" for number, item in enumerate(items, 1)]
    elif held.layout == "dashed":
        body = [f"- {item}" for item in items]
    else:
        body = ["Items: " + ", ".join(items)]
    lines = [OPENINGS.get(held.opening, ""), *body, CLOSINGS.get(held.closing, "")]
    return "\n".join(line for line in lines if line)


def parse_reply(text: str) -> ListTask:
    """Return what a reply holds. Every text can be parsed; what cannot be recognised becomes None, "" or 0."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    opening = _OPENING_OF.get(lines[0], "") if lines else ""
    closing = _CLOSING_OF.get(lines[-1], "") if lines else ""
    body = lines[bool(opening) : len(lines) - bool(closing)]
    layout: str | None = None
    parts = body
    if len(body) == 1 and body[0].startswith("Items: "):
        layout, parts = "plain", body[0].removeprefix("Items: ").split(", ")
    elif body and all(line.startswith("- ") for line in body):
        layout, parts = "dashed", [line.removeprefix("- ") for line in body]
    elif body and all(_NUMBERED.fullmatch(line) for line in body):
        layout, parts = "numbered", [line.partition(". ")[2] for line in body]
    found = [_ITEM.fullmatch(part) for part in parts]
    kinds = {_CATEGORY_OF.get(match[1]) if match else None for match in found}
    marks = {match[2] is not None if match else None for match in found}
    return ListTask(
        len(parts),
        kinds.pop() if len(kinds) == 1 else None,
        layout,
        opening,
        closing,
        marks.pop() if len(marks) == 1 else None,
    )


def find_faults(task: ListTask, held: ListTask) -> list[str]:
    """Return the dimensions of a task that a reply gets wrong, in the order of `DIMENSIONS`."""
    return [name for name in DIMENSIONS if getattr(task, name) != getattr(held, name)]


def find_current_task(messages: Sequence[Mapping[str, str]]) -> ListTask:
    """Return the task of the last request in a prompt, given as messages with `role` and `content`.

    Raises:
        ValueError: no user message holds a request.
    """
    for message in reversed(messages):
        if message["role"] == "user" and (task := parse_request(message["content"])):
            return task
    raise ValueError(f"no request of the simulated world in the prompt: {list(messages)!r:.200}")


def compute_gold_reward(messages: Sequence[Mapping[str, str]], completion: str) -> float:
    """Return the share of the six dimensions that a completion of this prompt gets right, 0 to 1."""
    return 1 - len(find_faults(find_current_task(messages), parse_reply(completion))) / len(DIMENSIONS)


def compute_gold_strict(messages: Sequence[Mapping[str, str]], completion: str) -> float:
    """Return 1.0 when a completion of this prompt gets every dimension right, else 0.0."""
    return float(compute_gold_reward(messages, completion) == 1)
