"""Estimates what learning a rubric will take at most, before the first request is sent.

The requests of the extraction are the ones that the run will send. Their answers are not known yet, so the fold is
counted as if each conversation gave as many reasons as allowed. The estimate leaves out questions asked again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from drift_data.llm.cost import FREE
from drift_data.llm.options import Price
from drift_data.llm.request import Sampling
from drift_data.llm.store import Store
from drift_data.llm.tokens import TokenCounter
from drift_data.rubric.extract import Extraction
from drift_data.rubric.options import LearnOptions
from drift_data.rubric.prompt import RubricPrompts

# Assumed lengths, from what the prompts ask for: a reason is one sentence, an item is a name and a sentence.
_TOKENS_PER_REASON: Final = 25
_TOKENS_PER_ITEM: Final = 40


@dataclass(frozen=True, slots=True)
class LearningEstimate:
    """What is still to be asked. Requests of the extraction whose answers are in the store are counted apart."""

    requests: int  # requests of the extraction without an answer
    answered: int  # requests of the extraction whose answer is in the store
    steps: int  # steps of the fold, at most
    input_tokens: int
    output_tokens: int
    price: float  # price if the server caches nothing, in the currency of the prices
    how: str  # how tokens were counted
    priced: bool  # False if no price of the model is known

    def __str__(self) -> str:
        answered = f" ({self.answered:,} more are answered already)" if self.answered else ""
        return (
            f"{self.requests:,} conversations to read{answered}, then at most {self.steps:,} steps of the fold; at most "
            f"about {self.input_tokens:,} tokens in and {self.output_tokens:,} out ({self.how})"
            + (f"; price {self.price:,.4f}" if self.priced else "")
        )


def estimate_learning(
    extractions: Sequence[Extraction],
    sampling: Sampling,
    options: LearnOptions,
    store: Store,
    counter: TokenCounter,
    price: Price,
    *,
    batch: bool = False,
) -> LearningEstimate:
    """Return what learning will take at most.

    Args:
        extractions: one for each conversation, before anything is asked.
        sampling: model and parameters.
        options: how many reasons and items.
        store: holds the answers that cost nothing any more.
        counter: counts tokens.
        price: the model's price.
        batch: whether the Batch API answers.
    """
    requests = answered = given = returned = 0
    shared: dict[str, int] = {}  # system message → its tokens
    for extraction in extractions:
        request = extraction.request
        assert request is not None  # nothing has been asked yet
        if store.has(request.key):
            answered += 1
            continue
        if request.system not in shared:
            shared[request.system] = counter.count(request.system)
        requests += 1
        given += shared[request.system] + counter.count(request.user)
        returned += options.reasons * _TOKENS_PER_REASON
    steps, prompts = 0, RubricPrompts(options)
    for label, conversations in Counter(task.example.label for task in extractions).items():
        reasons = conversations * options.reasons
        number = math.ceil(reasons / options.batch)
        empty = prompts.make_fold(label, (), 0, (), sampling, ())
        around = counter.count(empty.system) + counter.count(empty.user) + options.items * _TOKENS_PER_ITEM
        steps += number
        given += number * around + reasons * _TOKENS_PER_REASON
        returned += number * options.items * _TOKENS_PER_ITEM
    return LearningEstimate(
        requests=requests,
        answered=answered,
        steps=steps,
        input_tokens=given,
        output_tokens=returned,
        price=price.of(given, 0, returned, batch=batch),
        how=counter.how,
        priced=price != FREE,
    )
