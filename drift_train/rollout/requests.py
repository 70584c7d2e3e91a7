"""Makes the requests that a method wants for its examples, with prompts shortened until everything fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from drift_data.schema import DROPPED
from drift_data.workspace import Output
from drift_train.methods.base import Method, rollout_prompt
from drift_train.methods.examples import Example
from drift_train.models.render import Message, Messages, Renderer, RenderError, shorten
from drift_train.options import RolloutOptions
from drift_train.rollout.engine import SampleRequest, make_request_seed


@dataclass
class ExampleRequests:
    """Makes the requests for examples as the sampler takes them, and counts the examples that cannot be asked.

    Attributes:
        output: gets the examples that cannot be asked as dropped rows.
        renderer: the renderer of the policy that is sampled.
        examples: the examples of this iteration.
        method: says what the policy is shown.
        options: sampling, guidance, instruction.
        max_length: longest prompt and reply in the training that follows, in tokens.
        iteration: number of the iteration; it goes into the seeds.
        open_rows: key of each request without a reply so far → the request's columns of the `rollouts` table.
        asked: number of requests made so far.
        dropped: number of requests that were not made, because their example cannot be asked.
        shortened: number of examples whose prompt lost its oldest turns.
        last_drop: why the last dropped example could not be asked.
    """

    output: Output
    renderer: Renderer
    examples: Sequence[Example]
    method: Method
    options: RolloutOptions
    max_length: int
    iteration: int
    open_rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    asked: int = 0
    dropped: int = 0
    shortened: int = 0
    last_drop: str = ""

    @property
    def upper_bound(self) -> int:
        """How many requests there are at most."""
        return len(self.examples) * self._per_example

    def make(self) -> Iterator[SampleRequest]:
        """Yield the requests; examples that cannot be asked are dropped."""
        for example in self.examples:
            try:
                prompt = _shorten_prompt(self.renderer, example, self.method, self.options, self.max_length)
            except RenderError as error:
                key = {"conversation_id": example.conversation_id, "turn": example.turn}
                drop = {**key, "reason": error.reason, "detail": error.detail}
                self.output.drop([drop] * self._per_example, DROPPED)
                self.dropped, self.last_drop = self.dropped + self._per_example, str(error)
                continue
            self.shortened += len(prompt) < len(example.prompt)
            yield from self._make_for_example(example, prompt)

    @property
    def _per_example(self) -> int:
        """Number of requests that one example needs."""
        return self.options.samples * len(self.method.rollout_kinds(bool(self.options.guidance)))

    def _make_for_example(self, example: Example, prompt: Messages) -> Iterator[SampleRequest]:
        """Yield one request for each kind of rollout and sample."""
        for kind, messages in _rollout_prompts(self.method, example, prompt, self.options).items():
            prompt_ids = self.renderer.render_prompt(messages)
            for number in range(self.options.samples):
                seed = make_request_seed(
                    self.options.seed, self.iteration, example.conversation_id, example.turn, kind, number
                )
                key, self.asked = self.asked, self.asked + 1
                self.open_rows[key] = {
                    "conversation_id": example.conversation_id,
                    "turn": example.turn,
                    "sample": number,
                    "kind": kind,
                    "messages": [dict(message) for message in messages],
                    "seed": seed,
                }
                yield SampleRequest(key, messages, prompt_ids, seed)


def _rollout_prompts(
    method: Method, example: Example, prompt: Messages, options: RolloutOptions
) -> dict[str, list[Message]]:
    """Return kind of rollout → the messages that the policy is shown."""
    kinds = method.rollout_kinds(bool(options.guidance))
    return {kind: rollout_prompt(kind, example, prompt, options.instruction) for kind in kinds}


def _shorten_prompt(
    renderer: Renderer, example: Example, method: Method, options: RolloutOptions, max_length: int
) -> list[Message]:
    """Return the example's prompt, shortened until every rollout and the training pair fit: one x for all of them.

    Raises:
        RenderError: `prompt_too_long` when even the shortest prompt does not fit, or as `Renderer.render_pair`.
    """

    def fits(prompt: Messages) -> bool:
        prompt_ids, reply_ids = renderer.render_pair(prompt, method.logged_reply(example) or "")
        if len(prompt_ids) + max(len(reply_ids), options.max_new_tokens) > max_length:
            return False
        shown = _rollout_prompts(method, example, prompt, options).values()
        return all(len(renderer.render_prompt(messages)) <= options.max_prompt_tokens for messages in shown)

    found = shorten(example.prompt, fits)
    if found is None:
        raise RenderError(
            "prompt_too_long",
            f"the last user message, with what a guided prompt shows after it, is beyond max_prompt_tokens "
            f"{options.max_prompt_tokens}, or leaves no room for a reply in {max_length}",
        )
    return found[0]
