"""Samples the replies that a method wants from a policy and writes the `rollouts` table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drift_data.schema import ROLLOUTS
from drift_data.workspace import Output, UserError
from drift_train.methods.base import Method
from drift_train.methods.examples import Example
from drift_train.models.load import load_renderer, read_context_length
from drift_train.options import RolloutOptions
from drift_train.rollout.requests import ExampleRequests
from drift_train.rollout.sampler import SampledReply, Sampler

_ROWS_AT_ONCE = 1_000  # rows of the table that are written together


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
        output: the folder `rollouts`; its `unfinished` folder keeps the shards that are done.
        policy: folder of the model that is sampled.
        examples: the examples of this iteration.
        method: says what the policy is shown.
        options: sampling, guidance, instruction.
        max_length: longest prompt and reply in the training that follows, in tokens. Prompts are shortened once, for
            rollout and training alike.
        iteration: number of the iteration; it goes into the seeds.
        log_folder: folder of the engine's log.
        title: name of the progress bars.

    Raises:
        UserError: the options ask for more tokens than the model can see, or no example can be asked.
    """
    context = read_context_length(policy)
    if options.max_prompt_tokens + options.max_new_tokens > context:
        raise UserError(
            f"rollout.max_prompt_tokens {options.max_prompt_tokens} and max_new_tokens "
            f"{options.max_new_tokens} together are beyond the {context} positions of {policy}. Lower one of "
            "them."
        )
    requests = ExampleRequests(
        output, load_renderer(policy), examples, method, options, max_length, iteration
    )
    table = output.table(ROLLOUTS)
    rows: list[dict[str, Any]] = []
    with Sampler(policy, options, output.unfinished, log_folder, title) as sampler:
        for sampled in sampler.sample(requests.make(), requests.upper_bound):
            rows.append(_make_row(requests.open_rows.pop(sampled.request.key), sampled))
            if len(rows) == _ROWS_AT_ONCE:
                table.write_rows(rows)
                rows = []
    table.write_rows(rows)
    if not requests.asked:
        raise UserError(
            f"{title}: none of {len(examples)} examples can be asked; the last one: {requests.last_drop}. Raise "
            "rollout.max_prompt_tokens or train.max_length."
        )
    output.rows_in = requests.asked + requests.dropped
    output.made_by = sampler.made_by
    output.results["examples"] = len(examples)
    output.results["shortened_prompts"] = requests.shortened


def _make_row(request: dict[str, Any], sampled: SampledReply) -> dict[str, Any]:
    return {
        **request,
        "completion": sampled.text,
        "token_ids": sampled.reply.token_ids,
        "finish_reason": sampled.reply.finish_reason,
        "engine": sampled.engine,
    }
