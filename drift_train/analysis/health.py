"""Measures, on the rollouts that an iteration learned from, how the policy replies and how far it has moved.

M_(k-1) samples the rollouts of iteration k. Plain forwards of three models score their tokens. Over the sampled tokens y
of all measured replies together

    kl_base = mean over tokens of log π_(k-1)(y) − log π_base(y)    how far the sampled policy is from the base model
    kl_step = mean over tokens of log π_(k-1)(y) − log π_k(y)       how far this iteration has moved it

in nats a token. Each token is scored after the prompt that the policy saw, in a guided rollout with the complaint. With
temperature 1 and no top-p the two are plain Monte Carlo estimates of KL(π_(k-1) ‖ π_base) and KL(π_(k-1) ‖ π_k) a token.
Sharper sampling weighs likely tokens more: then the figures compare iterations of one run, not runs that sample
differently.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from drift_data.schema import HEALTH
from drift_data.workspace import Output, Workspace
from drift_train.analysis.likelihood import mean_per_token, score_replies
from drift_train.analysis.variety import (
    measure_distinct_over_all,
    measure_distinct_within_replies,
    measure_mean_cosine_distance,
)
from drift_train.models.load import load_renderer
from drift_train.options import HealthOptions

# Columns of `rollouts` that are read.
_COLUMNS = ["conversation_id", "turn", "sample", "kind", "messages", "token_ids", "finish_reason"]
_REPLY_KEY = ("conversation_id", "turn", "kind", "sample")


def write_health(
    output: Output,
    workspace: Workspace,
    rollouts: str,
    models: tuple[Path, Path, Path],
    options: HealthOptions,
    title: str,
) -> None:
    """Write one row for each measured reply, and the figures into the output's results.

    Results: `replies` (all), `measured`, `kl_base` and `kl_step` ({mean, stderr, n}; n counts replies), `tokens`
    ({mean, p10, p50, p90} of all replies), `finish_reasons` (counts of all replies), `distinct` ({corpus, reply} → n →
    share of token n-grams that are distinct), `diversity` (mean cosine distance of two replies, each the mean of its last
    hidden states in the base model: one yardstick for all iterations). A reply without tokens is counted, not measured.

    Args:
        output: the folder `health`.
        workspace: holds the rollouts.
        rollouts: name of their table, which has rows.
        models: folders of the policy that sampled the rollouts, of the base model, and of the policy trained on them.
        options: how many replies are scored.
        title: name of the progress bars.

    Raises:
        CheckError: a log-probability is not a number.
        MemoryError: a model does not fit into the device's memory.
    """
    policy, base, trained = models
    every, rows = _read_rollouts(workspace, rollouts, options.replies)
    renderer = load_renderer(policy)
    tokens = [(renderer.render_prompt(row["messages"]), list(row["token_ids"])) for row in rows]
    before, _ = score_replies(policy, tokens, f"{title}: sampled policy")
    start, embeddings = score_replies(base, tokens, f"{title}: base model", embed=True)
    after, _ = score_replies(trained, tokens, f"{title}: trained policy")
    output.table(HEALTH).write_rows(
        [
            {
                **{name: row[name] for name in (*_REPLY_KEY, "finish_reason")},
                "tokens": len(row["token_ids"]),
                "log_prob": of_policy,
                "log_prob_base": of_base,
                "log_prob_after": of_trained,
            }
            for row, of_policy, of_base, of_trained in zip(rows, before, start, after, strict=True)
        ]
    )
    output.rows_in = len(rows)
    lengths = [len(reply) for _, reply in tokens]
    said = [reply[:-1] if reply[-1] in renderer.ends else reply for _, reply in tokens]
    output.results = {
        "replies": len(every),
        "measured": len(rows),
        "kl_base": mean_per_token([a - b for a, b in zip(before, start, strict=True)], lengths),
        "kl_step": mean_per_token([a - b for a, b in zip(before, after, strict=True)], lengths),
        "tokens": _describe_lengths([length for length, _ in every]),
        "finish_reasons": dict(sorted(Counter(reason for _, reason in every).items())),
        "distinct": {
            "corpus": measure_distinct_over_all(said),
            "reply": measure_distinct_within_replies(said),
        },
        "diversity": measure_mean_cosine_distance(embeddings),
    }


def _read_rollouts(
    workspace: Workspace, table: str, count: int
) -> tuple[list[tuple[int, str]], list[dict[str, Any]]]:
    """Return (tokens, finish reason) of every rollout, and the whole rows of the `count` that come first by a hash."""
    every: list[tuple[int, str]] = []

    def rows() -> Iterator[dict[str, Any]]:
        for batch in workspace.batches(table, columns=_COLUMNS, batch_size=1_000):
            for row in batch.to_pylist():
                every.append((len(row["token_ids"]), row["finish_reason"]))
                if row["token_ids"]:  # some servers send empty replies
                    yield row

    def rank(row: dict[str, Any]) -> bytes:
        key = "\0".join(str(row[name]) for name in _REPLY_KEY)
        return hashlib.sha256(key.encode()).digest()

    chosen = heapq.nsmallest(count, rows(), key=rank)
    return every, chosen


def _describe_lengths(lengths: Sequence[int]) -> dict[str, float]:
    low, middle, high = np.percentile(lengths, [10, 50, 90])
    mean = sum(lengths) / len(lengths)
    return {
        "mean": round(mean, 2),
        "p10": round(float(low), 2),
        "p50": round(float(middle), 2),
        "p90": round(float(high), 2),
    }
