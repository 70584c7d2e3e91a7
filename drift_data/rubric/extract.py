"""Phase 1, extraction: what one conversation tells of why its user was satisfied or not."""

from __future__ import annotations

from collections.abc import Sequence

from drift_data.llm.request import Request, Sampling
from drift_data.rubric.answer import read_reasons
from drift_data.rubric.examples import Example
from drift_data.rubric.options import LearnOptions
from drift_data.rubric.prompt import Prompts
from drift_data.rubric.question import Question


class Extraction(Question[tuple[str, ...]]):
    """A `Task`: asks for the reasons of one conversation; its answer may be none."""

    def __init__(self, example: Example, prompts: Prompts, sampling: Sampling, options: LearnOptions) -> None:
        self.example = example
        conversation = "\n".join(message["content"] for message in example.messages)

        def ask(sampling: Sampling, faults: Sequence[str]) -> Request:
            return prompts.extraction(example, sampling, faults)

        def read(text: str) -> tuple[str, ...]:
            return read_reasons(text, options.reasons, conversation)

        super().__init__(ask, read, sampling, options.tries)
