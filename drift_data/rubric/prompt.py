"""Makes the requests of both phases: instructions first, log text and model text last and as data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined, Template

from drift_data.judge.quoting import Fenced, fenced, shown
from drift_data.judge.rubric import RubricItem
from drift_data.llm.request import Request, Sampling
from drift_data.rubric.answer import MAX_DEFINITION, MAX_NAME, items_schema, reasons_schema
from drift_data.rubric.examples import Example
from drift_data.rubric.options import LearnOptions
from drift_data.schema import DSAT, SAT

EXTRACT: Final = "extract"  # purposes, as the store knows them
FOLD: Final = "fold"
_FEELING: Final = {SAT: "satisfied", DSAT: "dissatisfied"}
_LOOKS: Final = {SAT: "good", DSAT: "bad"}
_EXAMPLE: Final = {
    SAT: {"name": "Confirms_Result", "definition": "Confirms that what the assistant gave works."},
    DSAT: {"name": "Points_Out_Error", "definition": "Points out a mistake in what the assistant gave."},
}


class Prompts:
    """The prompts of both phases."""

    def __init__(self, options: LearnOptions) -> None:
        environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)
        folder = files(__package__) / "prompts"
        names = ("extract_system", "extract_user", "fold_system", "fold_user")
        sources = {name: (folder / f"{name}.jinja").read_text(encoding="utf-8") for name in names}
        templates = {name: environment.from_string(source) for name, source in sources.items()}
        self._options = options
        self._extract: Template = templates["extract_user"]
        self._fold: Template = templates["fold_user"]
        self._system = {
            (EXTRACT, label): templates["extract_system"].render(
                feeling=_FEELING[label], looks=_LOOKS[label], most=options.reasons
            )
            for label in (SAT, DSAT)
        } | {
            (FOLD, label): templates["fold_system"].render(
                feeling=_FEELING[label],
                most=options.items,
                name=MAX_NAME,
                definition=MAX_DEFINITION,
                example=_EXAMPLE[label],
                change=label == DSAT,
            )
            for label in (SAT, DSAT)
        }
        self._reasons, self._items = reasons_schema(), {label: items_schema(label) for label in (SAT, DSAT)}
        # Of everything that this module puts into a request besides options, conversations and reasons.
        self.version = hashlib.sha256("\0".join(sources.values()).encode()).hexdigest()[:12]

    def extraction(self, example: Example, sampling: Sampling, faults: Sequence[str]) -> Request:
        """Return the request for the reasons of one conversation."""
        first, messages = self._shown(example)
        user = self._extract.render(
            first=first, feeling=_FEELING[example.label], faults=faults, conversation=fenced(messages)
        )
        return Request(self._system[EXTRACT, example.label], user, sampling, self._reasons, EXTRACT)

    def _shown(self, example: Example) -> tuple[int, list[Fenced]]:
        """Return the index of the first message that is shown, and the messages that are."""
        messages: list[Fenced] = []
        room = self._options.characters
        for at in reversed(range(len(example.messages))):
            message = example.messages[at]
            text = shown(message["content"], self._options.limit(message["role"]))
            room -= len(text)
            if messages and room < 0:
                return at + 1, messages[::-1]
            messages.append(Fenced(f"[{at}] {message['role']}", text))
        return 0, messages[::-1]

    def fold(
        self,
        polarity: str,
        so_far: Sequence[RubricItem],
        covered: int,
        reasons: Sequence[str],
        sampling: Sampling,
        faults: Sequence[str],
    ) -> Request:
        """Return the request that works a batch of reasons into a rubric, which covers so many already."""
        material = [Fenced(f"The {len(reasons)} next reasons:", _listed(reasons))]
        if so_far:
            items = [f"{item.name}: {item.definition}{_change(item)}" for item in so_far]
            material.insert(0, Fenced(f"The rubric so far, made from {covered} reasons:", _listed(items)))
        user = self._fold.render(so_far=bool(so_far), faults=faults, material=fenced(material))
        return Request(self._system[FOLD, polarity], user, sampling, self._items[polarity], FOLD)


def _change(item: RubricItem) -> str:
    return " (asks for a change)" if item.asks_for_change else ""


def _listed(lines: Sequence[str]) -> str:
    text = "\n".join(f"- {line}" for line in lines)
    return shown(text, len(text))
