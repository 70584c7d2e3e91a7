"""Asks a policy for the replies that a method wants and writes the `rollouts` table, with what could not be
asked.

Knows how prompts are shortened; the method says what is asked, the engine answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drift_data.schema import DROPPED, ROLLOUTS
from drift_data.workspace import Output, UserError
from drift_train.methods.base import Method, shown
from drift_train.methods.examples import Example
from drift_train.models.load import context_length, load_renderer
from drift_train.models.render import Message, Renderer, RenderError, shorten
from drift_train.options import RolloutOptions
from drift_train.rollout.engine import Request, request_seed
from drift_train.rollout.sampler import Sampled, Sampler

_ROWS = 1_000  # written at once


def write_rollouts(
    output: Output,
    policy: Path,
    examples: Sequence[Example],
    method: Method,
    options: RolloutOptions,
    *,
    max_length: int,
    iteration: int,
    log_folder: Path,
    title: str,
) -> None:
    """Sample what the method asks for each example and write the table, shard by shard.

    Args:
        output: of the stage that makes `rollouts`; its `unfinished` folder keeps the shards that are done.
        policy: folder of the model that is sampled.
        examples: those of this iteration.
        method: says what the policy is shown.
        options: sampling, guidance, instruction.
        max_length: of the training that follows: prompts are shortened once, for rollout and training alike.
        iteration: goes into the seeds.
        log_folder: of the engine's log.
        title: of the progress bars.

    Raises:
        UserError: the options ask for more tokens than the model can see, or no example can be asked.
    """
    room = context_length(policy)
    if options.max_prompt_tokens + options.max_new_tokens > room:
        raise UserError(
            f"rollout.max_prompt_tokens {options.max_prompt_tokens} and max_new_tokens "
            f"{options.max_new_tokens} together are beyond the {room} positions of {policy}. Lower one of "
            "them."
        )
    asking = _Asking(output, load_renderer(policy), examples, method, options, max_length, iteration)
    table = output.table(ROLLOUTS)
    rows: list[dict[str, Any]] = []
    with Sampler(policy, options, output.unfinished, log_folder, title) as sampler:
        for sampled in sampler.sample(asking.requests(), asking.most):
            rows.append(_row(asking.rows.pop(sampled.request.key), sampled))
            if len(rows) == _ROWS:
                table.write_rows(rows)
                rows = []
    table.write_rows(rows)
    if not asking.asked:
        raise UserError(
            f"{title}: none of {len(examples)} examples can be asked; the last one: {asking.last_drop}. Raise "
            "rollout.max_prompt_tokens or train.max_length."
        )
    output.rows_in = asking.asked + asking.left_out
    output.made_by = sampler.made_by
    output.results["examples"] = len(examples)
    output.results["shortened_prompts"] = asking.shortened


def _row(asked: dict[str, Any], sampled: Sampled) -> dict[str, Any]:
    return {
        **asked,
        "completion": sampled.text,
        "token_ids": sampled.reply.token_ids,
        "finish_reason": sampled.reply.finish_reason,
        "engine": sampled.engine,
    }


@dataclass
class _Asking:
    """Makes requests of examples, one after the other as they are wanted, and counts what cannot be asked.

    Attributes:
        rows: of the requests whose replies have not come: what the table says of each, by its key.
    """

    output: Output
    renderer: Renderer
    examples: Sequence[Example]
    method: Method
    options: RolloutOptions
    max_length: int
    iteration: int
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    asked: int = 0
    left_out: int = 0
    shortened: int = 0
    last_drop: str = ""

    @property
    def most(self) -> int:
        """How many requests there are at most."""
        return len(self.examples) * self._each

    def requests(self) -> Iterator[Request]:
        """Yield the requests; examples that cannot be asked are dropped."""
        for example in self.examples:
            try:
                fitted = _fit(self.renderer, example, self.method, self.options, self.max_length)
            except RenderError as error:
                key = {"conversation_id": example.conversation_id, "turn": example.turn}
                drop = {**key, "reason": error.reason, "detail": error.detail}
                self.output.drop([drop] * self._each, DROPPED)
                self.left_out, self.last_drop = self.left_out + self._each, str(error)
                continue
            self.shortened += len(fitted) < len(example.prompt)
            yield from self._of(example, fitted)

    @property
    def _each(self) -> int:
        """Requests of one example."""
        return self.options.samples * len(self.method.kinds(bool(self.options.guidance)))

    def _of(self, example: Example, prompt: Sequence[Message]) -> Iterator[Request]:
        """Yield one request a kind and sample."""
        for kind, messages in _ask(self.method, example, prompt, self.options).items():
            ids = self.renderer.prompt(messages)
            for number in range(self.options.samples):
                seed = request_seed(
                    self.options.seed, self.iteration, example.conversation_id, example.turn, kind, number
                )
                key, self.asked = self.asked, self.asked + 1
                self.rows[key] = {
                    "conversation_id": example.conversation_id,
                    "turn": example.turn,
                    "sample": number,
                    "kind": kind,
                    "messages": [dict(message) for message in messages],
                    "seed": seed,
                }
                yield Request(key, messages, ids, seed)


def _ask(
    method: Method, example: Example, prompt: Sequence[Message], options: RolloutOptions
) -> dict[str, list[Message]]:
    kinds = method.kinds(bool(options.guidance))
    return {kind: shown(kind, example, prompt, options.instruction) for kind in kinds}


def _fit(
    renderer: Renderer, example: Example, method: Method, options: RolloutOptions, max_length: int
) -> list[Message]:
    """Return the example's prompt, shortened until every rollout and the training pair fit: one x for all of them.

    Raises:
        RenderError: `prompt_too_long` when even the shortest does not, or as `Renderer.pair`.
    """

    def fits(prompt: Sequence[Message]) -> bool:
        plain, reply = renderer.pair(prompt, method.logged(example) or "")
        if len(plain) + max(len(reply), options.max_new_tokens) > max_length:
            return False
        asked = _ask(method, example, prompt, options).values()
        return all(len(renderer.prompt(messages)) <= options.max_prompt_tokens for messages in asked)

    found = shorten(example.prompt, fits)
    if found is None:
        raise RenderError(
            "prompt_too_long",
            f"the last user message, with what a guided prompt shows after it, is beyond max_prompt_tokens "
            f"{options.max_prompt_tokens}, or leaves no room for a reply in {max_length}",
        )
    return found[0]
