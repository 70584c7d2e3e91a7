"""Scores a policy's samples on held-out prompts with any function of prompt and reply. Knows nothing of what
it means.

Samples are drawn at temperature 1: greedy decoding hides what training changed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from drift_data.schema import DROPPED, EVALUATION
from drift_data.workspace import Output, UserError, Workspace
from drift_train.models.find import Base
from drift_train.models.load import load_renderer
from drift_train.models.render import Messages, Renderer, RenderError
from drift_train.options import EvalOptions
from drift_train.rollout.engine import ENGINE_LOGS, SampleRequest, make_request_seed
from drift_train.rollout.sampler import Sampler


def write_scores(
    output: Output,
    workspace: Workspace,
    policy: Base,
    prompts: str,
    score: Callable[[Messages, str], float],
    measure: str,
    options: EvalOptions,
    title: str,
) -> None:
    """Sample replies to held-out prompts, score them, and write the table and the figures.

    Args:
        output: of the stage that makes `eval`.
        workspace: holds the prompts.
        policy: the model that is sampled.
        prompts: table of the prompts.
        score: from (messages, completion) to a number; higher is better.
        measure: name of the score.
        options: engine and sampling.
        title: of the progress bars.

    Raises:
        UserError: there is no prompt that the model can be asked.
    """
    requests, rows = _requests(workspace, prompts, load_renderer(policy.path), options, output)
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
        measure: summary([math.fsum(values) / len(values) for values in scores.values()]),
        "mean_tokens": round(sum(lengths) / len(lengths), 2),
        "length_stops": sum(sampled.reply.finish_reason == "length" for sampled in samples),
    }


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return mean, standard error of the mean and number of values."""
    n = len(values)
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1) if n > 1 else 0.0
    return {"mean": round(mean, 6), "stderr": round(math.sqrt(variance / n), 6), "n": n}


def _requests(
    workspace: Workspace, prompts: str, renderer: Renderer, options: EvalOptions, output: Output
) -> tuple[list[SampleRequest], list[dict[str, Any]]]:
    """Return one request a prompt and sample, with its row; prompts that do not render are dropped."""
    requests: list[SampleRequest] = []
    rows: list[dict[str, Any]] = []
    taken = 0
    for prompt in tqdm(_prompts(workspace, prompts, options), desc="prompts", unit="prompt", mininterval=0.5):
        taken += 1
        identity, messages = prompt["conversation_id"], prompt["messages"]
        try:
            ids = renderer.prompt(messages)
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


def _prompts(workspace: Workspace, table: str, options: EvalOptions) -> Iterator[dict[str, Any]]:
    """Yield the prompts, or the first few by a hash of their id: the same for every model."""
    rows = workspace.read(table, columns=["conversation_id", "messages"]).to_pylist()
    rows.sort(key=lambda row: hashlib.sha256(row["conversation_id"].encode()).digest())
    yield from rows[: options.prompts]
