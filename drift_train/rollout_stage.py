"""Asks a policy for the replies that a method wants and writes the `rollouts` table, with what could not be
asked.

Knows how prompts are shortened; the method says what is asked, the engine answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from drift_data.schema import DROPPED, ROLLOUTS
from drift_data.workspace import Output, UserError
from drift_train.examples import Example
from drift_train.methods.base import Method, shown
from drift_train.options import RolloutOptions
from drift_train.policy import context_length, load_renderer
from drift_train.render import Message, Renderer, RenderError, shorten
from drift_train.rollout import Request, request_seed, sample


@dataclass(frozen=True)
class _Asked:
    """A request and the row of `rollouts` it becomes."""

    request: Request
    row: dict[str, Any]


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
    """Sample what the method asks for each example and write the table.

    Args:
        output: of the stage that makes `rollouts`.
        policy: folder of the model that is sampled.
        examples: those of this iteration.
        method: says what the policy is shown.
        options: sampling, guidance, instruction.
        max_length: of the training that follows: prompts are shortened once, for rollout and training alike.
        iteration: goes into the seeds.
        log_folder: of the engine's log.
        title: of the progress bars.

    Raises:
        UserError: the options ask for more tokens than the model can see.
    """
    room = context_length(policy)
    if options.max_prompt_tokens + options.max_new_tokens > room:
        raise UserError(
            f"rollout.max_prompt_tokens {options.max_prompt_tokens} and max_new_tokens "
            f"{options.max_new_tokens} together are beyond the {room} positions of {policy}. Lower one of "
            "them."
        )
    renderer = load_renderer(policy)
    asked: list[_Asked] = []
    drop: dict[str, Any] = {}
    shortened = left_out = 0
    for example in tqdm(examples, desc=f"{title}: prompts", unit="example", mininterval=0.5):
        try:
            fitted = _fit(renderer, example, method, options, max_length)
        except RenderError as error:
            key = {"conversation_id": example.conversation_id, "turn": example.turn}
            drop = {**key, "reason": error.reason, "detail": error.detail}
            kinds = len(method.kinds(bool(options.guidance)))
            output.drop([drop] * (options.samples * kinds), DROPPED)
            left_out += options.samples * kinds
            continue
        shortened += len(fitted) < len(example.prompt)
        asked += list(_requests(renderer, example, fitted, method, options, iteration, start=len(asked)))
    if not asked:
        raise UserError(
            f"{title}: none of {len(examples)} examples can be asked; the last one: {drop['detail']} "
            f"({drop['reason']}). Raise rollout.max_prompt_tokens or train.max_length."
        )
    samples = sample(policy, [a.request for a in asked], options, log_folder, title)
    rows = []
    for item in asked:
        reply = samples.replies[item.request.key]
        rows.append(
            {
                **item.row,
                "completion": samples.texts[item.request.key],
                "token_ids": reply.token_ids,
                "finish_reason": reply.finish_reason,
                "engine": samples.made_by["engine"],
            }
        )
    output.table(ROLLOUTS).write_rows(rows)
    output.rows_in = len(asked) + left_out
    output.made_by = samples.made_by
    output.results["examples"] = len(examples)
    output.results["shortened_prompts"] = shortened


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


def _requests(
    renderer: Renderer,
    example: Example,
    prompt: Sequence[Message],
    method: Method,
    options: RolloutOptions,
    iteration: int,
    start: int,
) -> Iterator[_Asked]:
    """Yield one request a kind and sample, with keys from `start`."""
    key = start
    for kind, messages in _ask(method, example, prompt, options).items():
        ids = renderer.prompt(messages)
        for number in range(options.samples):
            seed = request_seed(options.seed, iteration, example.conversation_id, example.turn, kind, number)
            row = {
                "conversation_id": example.conversation_id,
                "turn": example.turn,
                "sample": number,
                "kind": kind,
                "messages": [dict(message) for message in messages],
                "seed": seed,
            }
            yield _Asked(Request(key, messages, ids, seed), row)
            key += 1
