"""What learning a rubric will take at most, before the first request is sent. It sends nothing.

The requests of the extraction are made as the run makes them. What they will bring is not known, so the fold is
counted as if each conversation gave all the reasons that it may. Answers asked for twice are not foreseen.
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
from drift_data.rubric.prompt import Prompts

# Tokens, by the lengths that the prompts ask for: a reason is one sentence, an item a name and a sentence.
_REASON: Final = 25
_ITEM: Final = 40


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to be asked; answers to the extraction that the store has are not in it."""

    requests: int  # of the extraction
    answered: int  # more that the store has the answer to
    steps: int  # of the fold, at most
    input_tokens: int
    output_tokens: int
    price: float  # nothing cached
    how: str  # tokens were counted
    priced: bool  # false: nobody has said what the model costs

    def __str__(self) -> str:
        answered = f" ({self.answered:,} more are answered already)" if self.answered else ""
        return (
            f"{self.requests:,} conversations to read{answered}, then at most {self.steps:,} steps of the fold; at most "
            f"about {self.input_tokens:,} tokens in and {self.output_tokens:,} out ({self.how})"
            + (f"; price {self.price:,.4f}" if self.priced else "")
        )


def estimate(
    extractions: Sequence[Extraction],
    sampling: Sampling,
    options: LearnOptions,
    store: Store,
    counter: TokenCounter,
    price: Price,
    *,
    batch: bool = False,
) -> Estimate:
    """Return what learning will take.

    Args:
        extractions: one for each conversation, nothing asked yet.
        sampling: model and parameters.
        options: of the learning.
        store: what it has is free.
        counter: counts tokens.
        price: of the model.
        batch: by the Batch API.
    """
    requests = answered = given = returned = 0
    shared: dict[str, int] = {}  # tokens of the few system messages
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
        returned += options.reasons * _REASON
    steps, prompts = 0, Prompts(options)
    for label, conversations in Counter(task.example.label for task in extractions).items():
        reasons = conversations * options.reasons
        number = math.ceil(reasons / options.batch)
        empty = prompts.fold(label, (), 0, (), sampling, ())
        around = counter.count(empty.system) + counter.count(empty.user) + options.items * _ITEM
        steps += number
        given += number * around + reasons * _REASON
        returned += number * options.items * _ITEM
    return Estimate(
        requests=requests,
        answered=answered,
        steps=steps,
        input_tokens=given,
        output_tokens=returned,
        price=price.of(given, 0, returned, batch=batch),
        how=counter.how,
        priced=price != FREE,
    )
