"""Composes the requests of the LLM judge: rubric and instructions first, the conversation last.

Rubric and instructions are the same in every request of a run, so that servers can keep them in their prompt cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from drift_data.judge.quoting import QuotedMessage, quote_messages, quote_text
from drift_data.judge.rubric import Rubric
from drift_data.judge.spur.answer import FAULT_PHRASES, make_answer_schema
from drift_data.judge.spur.options import WindowOptions
from drift_data.judge.spur.windows import Window
from drift_data.llm.request import Request, Sampling, Schema
from drift_data.schema import DSAT, ROLES, SAT

SCORING_PURPOSE = "score"  # purpose of these requests, for people who read the store
_CONVERSATION_MARK = "\0"  # stands for the conversation while the template is rendered
_PROMPT_FILES = {name: files(__package__) / "prompts" / f"{name}.jinja" for name in ("system", "user")}


class ScoringPrompts:
    """Makes the prompts for one rubric."""

    def __init__(self, rubric: Rubric, options: WindowOptions) -> None:
        environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)
        sources = {name: path.read_text(encoding="utf-8") for name, path in _PROMPT_FILES.items()}
        self._user = environment.from_string(sources["user"])
        self._limits = {role: options.max_characters(role) for role in ROLES}
        by_polarity = {
            polarity: [item for item in rubric.items if item.polarity == polarity] for polarity in (SAT, DSAT)
        }
        self.system = environment.from_string(sources["system"]).render(
            satisfaction=by_polarity[SAT], dissatisfaction=by_polarity[DSAT]
        )
        self._schema = lru_cache(1_000)(lambda turns: make_answer_schema(rubric, turns))
        self._render_cached = lru_cache(1_000)(self._render)
        # Hash of the prompt templates; changes when their wording changes.
        self.version = hashlib.sha256("\0".join(sources.values()).encode()).hexdigest()[:12]

    def quote_window(self, window: Window) -> dict[int, str]:
        """Return the messages of a window as the prompt shows them: index in the conversation → text."""
        return {
            at: quote_text(message["content"] or "", self._limits[message["role"]])
            for at, message in enumerate(window.messages, window.first)
        }

    def make_request(
        self,
        window: Window,
        texts: Mapping[int, str],
        turns: Collection[int],
        sampling: Sampling,
        attempt: int = 1,
        faults: Collection[str] = (),
    ) -> Request:
        """Return the request that judges some turns of a window.

        Args:
            window: the messages that are shown.
            texts: those messages, from `quote_window`.
            turns: the turns of the window to judge.
            sampling: model and parameters.
            attempt: number of the try, from 1; later tries are different requests, since the prompt names the number.
            faults: what was wrong with the answer before, as keys of `FAULT_PHRASES`.
        """
        asked = set(turns)
        messages = [
            QuotedMessage(f"[{at}] {message['role']}{', to judge' if at in asked else ''}", texts[at])
            for at, message in enumerate(window.messages, window.first)
        ]
        listed = tuple(sorted(asked))
        before, after = self._render_cached(window.first, listed, attempt, frozenset(faults))
        wanted: Schema = self._schema(listed)
        return Request(
            self.system, before + quote_messages(messages) + after, sampling, wanted, SCORING_PURPOSE
        )

    def _render(
        self, first: int, turns: tuple[int, ...], attempt: int, faults: frozenset[str]
    ) -> tuple[str, str]:
        """Return the user prompt's text before and after the conversation; equal in many requests, so it is cached."""
        user = self._user.render(
            first=first,
            turns=turns,
            attempt=attempt,
            faults=[FAULT_PHRASES[fault] for fault in sorted(faults)],
            conversation=_CONVERSATION_MARK,
        )
        before, after = user.split(_CONVERSATION_MARK)
        return before, after
