"""Makes the requests of both phases: first our instructions, then text from logs and models, quoted as data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined, Template

from drift_data.judge.quoting import QuotedMessage, quote_messages, quote_text
from drift_data.judge.rubric import RubricItem
from drift_data.llm.request import Request, Sampling
from drift_data.rubric.answer import (
    MAX_DEFINITION_LENGTH,
    MAX_NAME_LENGTH,
    make_items_schema,
    make_reasons_schema,
)
from drift_data.rubric.examples import RatedConversation
from drift_data.rubric.options import LearnOptions
from drift_data.schema import DSAT, SAT

EXTRACT_PURPOSE: Final = "extract"  # purposes of the requests, for people who read the store
FOLD_PURPOSE: Final = "fold"
_FEELING: Final = {SAT: "satisfied", DSAT: "dissatisfied"}
_VERDICT: Final = {SAT: "good", DSAT: "bad"}
_EXAMPLE_ITEM: Final = {
    SAT: {"name": "Confirms_Result", "definition": "Confirms that what the assistant gave works."},
    DSAT: {"name": "Points_Out_Error", "definition": "Points out a mistake in what the assistant gave."},
}


class RubricPrompts:
    """The prompts of both phases.

    Args:
        options: how many reasons and items are asked for, and how much of a conversation is shown.
    """

    def __init__(self, options: LearnOptions) -> None:
        environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)
        folder = files(__package__) / "prompts"
        names = ("extract_system", "extract_user", "fold_system", "fold_user")
        sources = {name: (folder / f"{name}.jinja").read_text(encoding="utf-8") for name in names}
        templates = {name: environment.from_string(source) for name, source in sources.items()}
        self._options = options
        self._extract_template: Template = templates["extract_user"]
        self._fold_template: Template = templates["fold_user"]
        self._system_messages = {
            (EXTRACT_PURPOSE, label): templates["extract_system"].render(
                feeling=_FEELING[label], looks=_VERDICT[label], most=options.reasons
            )
            for label in (SAT, DSAT)
        } | {
            (FOLD_PURPOSE, label): templates["fold_system"].render(
                feeling=_FEELING[label],
                most=options.items,
                name=MAX_NAME_LENGTH,
                definition=MAX_DEFINITION_LENGTH,
                example=_EXAMPLE_ITEM[label],
                change=label == DSAT,
            )
            for label in (SAT, DSAT)
        }
        self._reasons_schema = make_reasons_schema()
        self._items_schemas = {label: make_items_schema(label) for label in (SAT, DSAT)}
        # Hash of the prompt templates; changes when their wording changes.
        self.version = hashlib.sha256("\0".join(sources.values()).encode()).hexdigest()[:12]

    def make_extraction(
        self, example: RatedConversation, sampling: Sampling, faults: Sequence[str]
    ) -> Request:
        """Return the request for the reasons of one conversation."""
        first, messages = self._quote_conversation(example)
        user = self._extract_template.render(
            first=first, feeling=_FEELING[example.label], faults=faults, conversation=quote_messages(messages)
        )
        return Request(
            self._system_messages[EXTRACT_PURPOSE, example.label],
            user,
            sampling,
            self._reasons_schema,
            EXTRACT_PURPOSE,
        )

    def _quote_conversation(self, example: RatedConversation) -> tuple[int, list[QuotedMessage]]:
        """Return the index of the first message that fits into a prompt, and the messages from there on, quoted."""
        messages: list[QuotedMessage] = []
        room = self._options.characters
        for at in reversed(range(len(example.messages))):
            message = example.messages[at]
            text = quote_text(message["content"], self._options.max_characters(message["role"]))
            room -= len(text)
            if messages and room < 0:
                return at + 1, messages[::-1]
            messages.append(QuotedMessage(f"[{at}] {message['role']}", text))
        return 0, messages[::-1]

    def make_fold(
        self,
        polarity: str,
        so_far: Sequence[RubricItem],
        covered: int,
        reasons: Sequence[str],
        sampling: Sampling,
        faults: Sequence[str],
    ) -> Request:
        """Return the request that works a batch of reasons into a rubric.

        Args:
            polarity: SAT or DSAT.
            so_far: the items of the rubric.
            covered: how many reasons the items in `so_far` were made from.
            reasons: the batch.
            sampling: model and parameters.
            faults: what was wrong with earlier answers.
        """
        material = [QuotedMessage(f"The {len(reasons)} next reasons:", _render_list(reasons))]
        if so_far:
            items = [f"{item.name}: {item.definition}{_render_change(item)}" for item in so_far]
            material.insert(
                0, QuotedMessage(f"The rubric so far, made from {covered} reasons:", _render_list(items))
            )
        user = self._fold_template.render(
            so_far=bool(so_far), faults=faults, material=quote_messages(material)
        )
        return Request(
            self._system_messages[FOLD_PURPOSE, polarity],
            user,
            sampling,
            self._items_schemas[polarity],
            FOLD_PURPOSE,
        )


def _render_change(item: RubricItem) -> str:
    return " (asks for a change)" if item.asks_for_change else ""


def _render_list(lines: Sequence[str]) -> str:
    text = "\n".join(f"- {line}" for line in lines)
    return quote_text(text, len(text))
