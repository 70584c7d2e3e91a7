"""Samples replies from a policy by one of two engines and checks what came back before anyone uses it.

Knows engines, rendering and log-probabilities; nothing about feedback, pairs or tables.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from drift_data.workspace import UserError
from drift_train.checks import CheckError, recheck_log_probs
from drift_train.options import SamplingOptions
from drift_train.policy import load_renderer
from drift_train.render import Message


@dataclass(frozen=True)
class Request:
    """One reply to be sampled. `key` joins it with its reply, `seed` makes it the same in any batch."""

    key: int
    messages: Sequence[Message]
    prompt_ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Reply:
    """Tokens as sampled, EOS included, with their log-probabilities at temperature 1 and without top-p."""

    key: int
    token_ids: list[int]
    finish_reason: str  # stop | length
    log_probs: list[float]


class EngineStartError(UserError):
    """The engine that was asked for could not be started; the message says why and where its log is."""


class Engine(Protocol):
    """Samples one reply to each request, in any order."""

    name: str
    dtype: Any  # torch.dtype that it computed in

    def sample(self, requests: Sequence[Request], options: SamplingOptions) -> list[Reply]:
        """Sample.

        Raises:
            EngineStartError: it did not start.
            CheckError: it renders prompts to other tokens than ours, or died.
        """
        ...


@dataclass(frozen=True)
class Samples:
    """Replies by key, their texts, and what the manifest says of how they were made."""

    replies: dict[int, Reply]
    texts: dict[int, str]
    made_by: dict[str, Any]


def request_seed(seed: int, *key: object) -> int:
    """Return a 63-bit seed for one request: a hash of the run's seed and the request's key."""
    text = "\0".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def sample(
    policy: Path, requests: Sequence[Request], options: SamplingOptions, log_folder: Path, title: str
) -> Samples:
    """Sample a reply to each request, fresh engine and all, and score a few of them again.

    Args:
        policy: folder of the model.
        requests: keys must differ.
        options: engine and sampling.
        log_folder: where an engine's own log goes.
        title: names the log and the progress bar, e.g. "demo iter1 rollouts".

    Raises:
        EngineStartError: the named engine does not start (`auto` takes the other one and says so).
        CheckError: the engine's log-probabilities are not this policy's, or replies are missing.
    """
    renderer = load_renderer(policy)
    if not requests:
        return Samples({}, {}, {"engine": None})
    engine, replies, remark = _run(policy, renderer.ends, requests, options, log_folder, title)
    by_key = {reply.key: reply for reply in replies}
    if len(replies) != len(requests) or by_key.keys() != {request.key for request in requests}:
        raise CheckError(f"The {engine.name} engine answered {len(by_key)} of {len(requests)} requests.")
    made_by: dict[str, Any] = {
        "engine": engine.name,
        "precision": str(engine.dtype).removeprefix("torch."),
        **remark,
    }
    rows = [(request.prompt_ids, by_key[request.key]) for request in requests]
    rows = [row for row in rows if row[1].token_ids][: options.recheck]
    if rows:
        made_by["rechecked_rows"] = len(rows)
        made_by["largest_log_prob_difference"] = recheck_log_probs(
            policy, [(ids, r.token_ids, r.log_probs) for ids, r in rows], engine.dtype, engine.name
        )
    return Samples(by_key, {key: renderer.text(r.token_ids) for key, r in by_key.items()}, made_by)


def _run(
    policy: Path,
    stop: list[int],
    requests: Sequence[Request],
    options: SamplingOptions,
    log_folder: Path,
    title: str,
) -> tuple[Engine, list[Reply], dict[str, str]]:
    """Run the engine that the options name; `auto` falls back, with the reason as a remark."""
    from drift_train.engines.transformers import TransformersEngine
    from drift_train.engines.vllm import VllmEngine

    engine: Engine
    remark: dict[str, str] = {}
    if options.engine != "transformers":
        try:
            if importlib.util.find_spec("vllm") is None:
                raise EngineStartError("vllm is not installed")
            engine = VllmEngine(policy, stop, log_folder, title)
            return engine, engine.sample(requests, options), remark
        except EngineStartError as error:
            if options.engine == "vllm":
                raise
            remark = {"instead_of_vllm": str(error)}
            print(f"{title}: {error}; sampling with transformers", file=sys.stderr)
    engine = TransformersEngine(policy, stop, title)
    return engine, engine.sample(requests, options), remark
