"""Reads the labelled conversations that were written for this project.

A file holds conversations as plain text that people can read and extend:

    === en coding
    U: Write a function that …
    A: Here it is: …
    U[DSAT Factual_Error 3]: It throws a KeyError.
    A: Sorry, …
    U[NEUTRAL]: Now the tests.

`===` opens a conversation and names its language (ISO 639-1) and topic. A message continues over the following lines up
to the next `U` or `A`. Every user message after the first is a feedback turn and carries its label in brackets: SAT or
DSAT with an item and its strength (1 weak, 2 clear, 3 said outright), or NEUTRAL. `A(refusal):` marks a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from drift_data.schema import DSAT, NEUTRAL, SAT

CORPUS_FOLDER: Final = "corpus"
_OPENING: Final = re.compile(r"=== (?P<language>[a-z]{2}) (?P<topic>\S.*)")
_MESSAGE: Final = re.compile(
    r"(?:(?P<user>U)(?:\[(?P<label>NEUTRAL|(?:DSAT|SAT) \w+ [123])\])?|(?P<reply>A)(?P<refusal>\(refusal\))?): ?(?P<text>.*)"
)
# A misspelt opening of a conversation or a message; it must not become part of the message before it.
_ALMOST_OPENING: Final = re.compile(r"===|[UA] ?(?:\[[^]]*]|\([^)]*\))? ?:")


@dataclass(frozen=True)
class WrittenLabel:
    """The label of one feedback turn, as the corpus states it."""

    label: str
    item: str | None = None
    strength: int = 0  # 1 to 3; 0 for NEUTRAL


@dataclass
class WrittenConversation:
    """One conversation of the corpus, with its labels."""

    name: str  # file and line where the conversation begins
    language: str  # ISO 639-1
    topic: str
    messages: list[dict[str, str]] = field(default_factory=list)  # role, content
    marks: dict[int, WrittenLabel] = field(default_factory=dict)  # index of the feedback message → label
    refusals: set[int] = field(default_factory=set)  # indices of the replies that are refusals


def read_corpus(items: frozenset[str] | set[str]) -> list[WrittenConversation]:
    """Return all conversations of the corpus, file by file.

    Args:
        items: the items that a rubric has, as `SAT:Praise` or `DSAT:Style`.

    Raises:
        ValueError: a line does not follow the format; the message has its file and number.
    """
    found: list[WrittenConversation] = []
    for path in sorted((files(__package__) / CORPUS_FOLDER).iterdir(), key=lambda path: path.name):
        if path.name.endswith(".txt"):
            found.extend(read_corpus_file(path, items))
    return found


def read_corpus_file(path: Traversable, items: frozenset[str] | set[str]) -> Iterator[WrittenConversation]:
    """Yield the conversations of one file, each of them checked; arguments and errors as for `read_corpus`."""
    example: WrittenConversation | None = None
    for number, line in enumerate(_read_utf8(path).splitlines(), 1):
        place = f"{path.name}:{number}"
        if opening := _OPENING.fullmatch(line):
            if example is not None:
                yield _check_conversation(example)
            example = WrittenConversation(place, opening["language"], opening["topic"].strip())
        elif message := _MESSAGE.fullmatch(line):
            if example is None:
                raise ValueError(f"{place}: a message before the first ===")
            _add_message(example, message, place, items)
        elif _ALMOST_OPENING.match(line):
            raise ValueError(
                f"{place}: neither `=== language topic` nor a message with a known label: {line[:40]!r}"
            )
        elif example is not None and example.messages:
            example.messages[-1]["content"] += "\n" + line
        elif line.strip():
            expected = "`=== language topic`" if example is None else "`U:` after ==="
            raise ValueError(f"{place}: expected {expected}, not {line[:40]!r}")
    if example is not None:
        yield _check_conversation(example)


def _read_utf8(path: Traversable) -> str:
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path.name}:{line}: not UTF-8 ({error.reason})") from error


def _add_message(
    example: WrittenConversation, message: re.Match[str], place: str, items: frozenset[str] | set[str]
) -> None:
    role, at = ("user" if message["user"] else "assistant"), len(example.messages)
    if role != ("user", "assistant")[at % 2]:
        raise ValueError(f"{place}: two messages of one side in a row")
    if role == "user" and (message["label"] is None) != (at == 0):
        raise ValueError(f"{place}: every user message but the first carries a label, such as U[NEUTRAL]:")
    if role == "user" and at:
        mark = _parse_label(message["label"])
        if mark.item is not None and f"{mark.label}:{mark.item}" not in items:
            raise ValueError(f"{place}: the rubric has no {mark.label} item {mark.item}")
        example.marks[at] = mark
    if message["refusal"]:
        example.refusals.add(at)
    example.messages.append({"role": role, "content": message["text"]})


def _parse_label(text: str) -> WrittenLabel:
    label, *rest = text.split()
    assert label in (SAT, DSAT, NEUTRAL)
    return WrittenLabel(label, rest[0], int(rest[1])) if rest else WrittenLabel(label)


def _check_conversation(example: WrittenConversation) -> WrittenConversation:
    for message in example.messages:
        message["content"] = message["content"].rstrip()
        if not message["content"]:
            raise ValueError(f"{example.name}: a message of this conversation is empty")
    if not example.marks:
        raise ValueError(f"{example.name}: the conversation has no feedback turn")
    return example
