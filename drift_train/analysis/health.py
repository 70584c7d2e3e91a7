"""Measures what an iteration's policy says and how far it has moved, on the rollouts that the iteration learned from.

The rollouts of iteration k come from M_(k-1). Their tokens are scored by plain forwards of three models, and for
sampled tokens y of all measured replies together

    kl_base = mean over tokens of log π_(k-1)(y) − log π_base(y)    how far the sampled policy is from the base model
    kl_step = mean over tokens of log π_(k-1)(y) − log π_k(y)       how far this iteration has moved it

in nats a token, each token given what was shown: for a guided rollout the complaint, too. With temperature 1 and no
top-p these are the plain Monte Carlo estimates of KL(π_(k-1) ‖ π_base) and KL(π_(k-1) ‖ π_k) a token; sharper sampling
weighs likely tokens more, so such figures compare iterations of one run, not runs that sample differently.
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
from drift_train.analysis.likelihood import score, token_mean
from drift_train.analysis.variety import corpus_distinct, mean_cosine_distance, reply_distinct
from drift_train.models.load import load_renderer
from drift_train.options import HealthOptions

_READ = ["conversation_id", "turn", "sample", "kind", "messages", "token_ids", "finish_reason"]
_KEY = ("conversation_id", "turn", "kind", "sample")


def write_health(
    output: Output,
    workspace: Workspace,
    rollouts: str,
    models: tuple[Path, Path, Path],
    options: HealthOptions,
    title: str,
) -> None:
    """Write a row a measured reply, and the figures into the output's results.

    Results: `replies` (all), `measured`, `kl_base` and `kl_step` ({mean, stderr, n}; n counts replies), `tokens`
    ({mean, p10, p50, p90} of all replies), `finish_reasons` (counts of all replies), `distinct` ({corpus, reply} → n →
    share of n-grams of tokens that are no repeats), `diversity` (mean cosine distance of two replies, as the base
    model's mean last hidden states: one yardstick for all iterations). A reply of no token is counted, not measured.

    Args:
        output: of the stage that makes `health`.
        workspace: holds the rollouts.
        rollouts: their table, which has rows.
        models: folders of the policy that sampled, of the base model, and of the policy trained on the pairs.
        options: how many replies are scored.
        title: of the progress bars.

    Raises:
        CheckError: a log-probability is not a number.
        MemoryError: a model does not fit into the device's memory.
    """
    policy, base, trained = models
    every, rows = _read(workspace, rollouts, options.replies)
    renderer = load_renderer(policy)
    tokens = [(renderer.prompt(row["messages"]), list(row["token_ids"])) for row in rows]
    before, _ = score(policy, tokens, f"{title}: sampled policy")
    start, embeddings = score(base, tokens, f"{title}: base model", embed=True)
    after, _ = score(trained, tokens, f"{title}: trained policy")
    output.table(HEALTH).write_rows(
        [
            {
                **{name: row[name] for name in (*_KEY, "finish_reason")},
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
        "kl_base": token_mean([a - b for a, b in zip(before, start, strict=True)], lengths),
        "kl_step": token_mean([a - b for a, b in zip(before, after, strict=True)], lengths),
        "tokens": _distribution([length for length, _ in every]),
        "finish_reasons": dict(sorted(Counter(reason for _, reason in every).items())),
        "distinct": {"corpus": corpus_distinct(said), "reply": reply_distinct(said)},
        "diversity": mean_cosine_distance(embeddings),
    }


def _read(workspace: Workspace, table: str, count: int) -> tuple[list[tuple[int, str]], list[dict[str, Any]]]:
    """Return (tokens, finish reason) of every rollout, and the first `count` whole rows by a hash of their key."""
    every: list[tuple[int, str]] = []

    def rows() -> Iterator[dict[str, Any]]:
        for batch in workspace.batches(table, columns=_READ, batch_size=1_000):
            for row in batch.to_pylist():
                every.append((len(row["token_ids"]), row["finish_reason"]))
                if row["token_ids"]:  # some servers give replies of none
                    yield row

    def rank(row: dict[str, Any]) -> bytes:
        key = "\0".join(str(row[name]) for name in _KEY)
        return hashlib.sha256(key.encode()).digest()

    chosen = heapq.nsmallest(count, rows(), key=rank)
    return every, chosen


def _distribution(lengths: Sequence[int]) -> dict[str, float]:
    low, middle, high = np.percentile(lengths, [10, 50, 90])
    mean = sum(lengths) / len(lengths)
    return {
        "mean": round(mean, 2),
        "p10": round(float(low), 2),
        "p50": round(float(middle), 2),
        "p90": round(float(high), 2),
    }
