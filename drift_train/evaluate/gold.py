"""Scores a policy's samples on held-out prompts by a function of prompt and reply, such as the gold reward.

Samples are drawn at temperature 1, since greedy decoding hides what training changes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from drift_data.schema import DROPPED, EVALUATION
from drift_data.workspace import Output, UserError, Workspace
from drift_train.models.find import FoundModel
from drift_train.models.load import load_renderer
from drift_train.models.render import Messages, Renderer, RenderError
from drift_train.options import EvalOptions
from drift_train.rollout.engine import ENGINE_LOGS, SampleRequest, make_request_seed
from drift_train.rollout.sampler import Sampler


def write_scores(
    output: Output,
    workspace: Workspace,
    policy: FoundModel,
    prompts: str,
    score: Callable[[Messages, str], float],
    measure: str,
    options: EvalOptions,
    title: str,
) -> None:
    """Sample replies to held-out prompts, score them, and write the table and the figures.

    Args:
        output: the folder `eval`.
        workspace: holds the prompts.
        policy: the model that is sampled.
        prompts: a table with `conversation_id` and `messages`; the last message is a user's.
        score: returns a number for (messages, completion); higher is better.
        measure: name of the score.
        options: engine and sampling.
        title: name of the progress bars.

    Raises:
        UserError: there is no prompt that the model can be asked.
    """
    requests, rows = _make_requests(workspace, prompts, load_renderer(policy.path), options, output)
    if not requests:
        raise UserError(f"{workspace.path(prompts)} has no prompt that {policy.name} can be asked.")
    with Sampler(policy.path, options, output.unfinished, workspace.path(ENGINE_LOGS), title) as sampler:
        samples = list(sampler.sample(requests, len(requests)))
    scored: list[dict[str, Any]] = []
    scores: dict[str, list[float]] = {}
    lengths = [len(sampled.reply.token_ids) for sampled in samples]
    for sampled, row, tokens in zip(samples, rows, lengths, strict=True):
        value = score(row["prompt"], sampled.text)
        scores.setdefault(row["conversation_id"], []).append(value)
        scored.append(
            {**row, "measure": measure, "score": value, "completion": sampled.text, "tokens": tokens}
        )
    output.table(EVALUATION).write_rows(scored)
    output.made_by = {"model": policy.name, **sampler.made_by}
    output.results = {
        measure: summarize([math.fsum(values) / len(values) for values in scores.values()]),
        "mean_tokens": round(sum(lengths) / len(lengths), 2),
        "length_stops": sum(sampled.reply.finish_reason == "length" for sampled in samples),
    }


def summarize(values: Sequence[float]) -> dict[str, float]:
    """Return mean, standard error of the mean and number of values."""
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else 0.0
    return {"mean": round(mean, 6), "stderr": round(math.sqrt(variance / n), 6), "n": n}


def _make_requests(
    workspace: Workspace, prompts: str, renderer: Renderer, options: EvalOptions, output: Output
) -> tuple[list[SampleRequest], list[dict[str, Any]]]:
    """Return a request for each prompt and sample, with its row. Prompts that cannot be rendered are dropped."""
    requests: list[SampleRequest] = []
    rows: list[dict[str, Any]] = []
    taken = 0
    for prompt in tqdm(
        _read_prompts(workspace, prompts, options), desc="prompts", unit="prompt", mininterval=0.5
    ):
        taken += 1
        identity, messages = prompt["conversation_id"], prompt["messages"]
        try:
            ids = renderer.render_prompt(messages)
            if len(ids) > options.max_prompt_tokens:
                raise RenderError("prompt_too_long", f"{len(ids)} tokens of {options.max_prompt_tokens}")
        except RenderError as error:
            drop = {"conversation_id": identity, "reason": error.reason, "detail": error.detail}
            output.drop([drop] * options.samples, DROPPED)
            continue
        for number in range(options.samples):
            seed = make_request_seed(options.seed, "eval", identity, number)
            requests.append(SampleRequest(len(requests), messages, ids, seed))
            rows.append({"conversation_id": identity, "sample": number, "prompt": messages})
    output.rows_in = taken * options.samples
    return requests, rows


def _read_prompts(workspace: Workspace, table: str, options: EvalOptions) -> Iterator[dict[str, Any]]:
    """Yield the prompts in the order of a hash of their ids, or the first few: every model gets the same ones."""
    rows = workspace.read(table, columns=["conversation_id", "messages"]).to_pylist()
    rows.sort(key=lambda row: hashlib.sha256(row["conversation_id"].encode()).digest())
    yield from rows[: options.prompts]
