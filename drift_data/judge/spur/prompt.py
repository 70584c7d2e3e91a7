"""Makes the requests of the scoring phase: rubric and instructions first, the conversation last.

The first part is the same for every request of a run, so that servers can keep it in their prompt cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from drift_data.judge.quoting import Fenced, fenced, shown
from drift_data.judge.rubric import Rubric
from drift_data.judge.spur.answer import FAULTS, schema
from drift_data.judge.spur.options import WindowOptions
from drift_data.judge.spur.windows import Window
from drift_data.llm.request import Request, Sampling, Schema
from drift_data.schema import DSAT, ROLES, SAT

PURPOSE = "score"
_HERE = "\0"
_FILES = {name: files(__package__) / "prompts" / f"{name}.jinja" for name in ("system", "user")}


class Prompts:
    """The prompts of one rubric."""

    def __init__(self, rubric: Rubric, options: WindowOptions) -> None:
        environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=False)
        sources = {name: path.read_text(encoding="utf-8") for name, path in _FILES.items()}
        self._user = environment.from_string(sources["user"])
        self._limits = {role: options.limit(role) for role in ROLES}
        by_polarity = {
            polarity: [item for item in rubric.items if item.polarity == polarity] for polarity in (SAT, DSAT)
        }
        self.system = environment.from_string(sources["system"]).render(
            satisfaction=by_polarity[SAT], dissatisfaction=by_polarity[DSAT]
        )
        self._schema = lru_cache(1_000)(lambda turns: schema(rubric, turns))
        self._around = lru_cache(1_000)(self._render)
        # Of everything that this module puts into a request besides rubric, options and conversation.
        self.version = hashlib.sha256("\0".join(sources.values()).encode()).hexdigest()[:12]

    def shown(self, window: Window) -> dict[int, str]:
        """Return the messages of a window as the prompt shows them, by their index in the conversation."""
        return {
            at: shown(message["content"] or "", self._limits[message["role"]])
            for at, message in enumerate(window.messages, window.first)
        }

    def request(
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
            window: what is shown.
            texts: its messages, from `shown`.
            turns: which of its turns to judge.
            sampling: model and parameters.
            attempt: from 1; each is a request of its own.
            faults: keys of `FAULTS`: what was wrong with the answer before.
        """
        asked = set(turns)
        messages = [
            Fenced(f"[{at}] {message['role']}{', to judge' if at in asked else ''}", texts[at])
            for at, message in enumerate(window.messages, window.first)
        ]
        listed = tuple(sorted(asked))
        before, after = self._around(window.first, listed, attempt, frozenset(faults))
        wanted: Schema = self._schema(listed)
        return Request(self.system, before + fenced(messages) + after, sampling, wanted, PURPOSE)

    def _render(
        self, first: int, turns: tuple[int, ...], attempt: int, faults: frozenset[str]
    ) -> tuple[str, str]:
        """Return what a user prompt has before and after the conversation: few differ in that."""
        user = self._user.render(
            first=first,
            turns=turns,
            attempt=attempt,
            faults=[FAULTS[fault] for fault in sorted(faults)],
            conversation=_HERE,
        )
        before, after = user.split(_HERE)
        return before, after
