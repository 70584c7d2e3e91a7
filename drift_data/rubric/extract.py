"""Phase 1, extraction: asks why the user of one conversation was satisfied or dissatisfied."""

from __future__ import annotations

from collections.abc import Sequence

from drift_data.llm.request import Request, Sampling
from drift_data.rubric.answer import read_reasons
from drift_data.rubric.examples import RatedConversation
from drift_data.rubric.options import LearnOptions
from drift_data.rubric.prompt import RubricPrompts
from drift_data.rubric.question import Question


class Extraction(Question[tuple[str, ...]]):
    """A `Task` that asks for the reasons in one conversation; the answer may be that there are none.

    Args:
        example: the conversation, with its thumb.
        prompts: makes the requests.
        sampling: model and parameters.
        options: how many reasons, and how many tries.
    """

    def __init__(
        self, example: RatedConversation, prompts: RubricPrompts, sampling: Sampling, options: LearnOptions
    ) -> None:
        self.example = example
        conversation = "\n".join(message["content"] for message in example.messages)

        def ask(sampling: Sampling, faults: Sequence[str]) -> Request:
            return prompts.make_extraction(example, sampling, faults)

        def read(text: str) -> tuple[str, ...]:
            return read_reasons(text, options.reasons, conversation)

        super().__init__(ask, read, sampling, options.tries)
