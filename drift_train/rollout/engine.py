"""The contract between the sampler and the engines: what an engine is asked, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from drift_data.workspace import UserError
from drift_train.models.render import Messages

ENGINE_LOGS = "logs"  # folder of the workspace for the engines' own logs


@dataclass(frozen=True)
class SampleRequest:
    """One reply that is to be sampled.

    Attributes:
        key: joins the request with its reply; no two requests of a sampler share one.
        messages: the prompt.
        prompt_ids: the tokens that our renderer makes of the prompt; the engine must see the same.
        seed: makes the reply the same in any batch.
    """

    key: int
    messages: Messages
    prompt_ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class EngineReply:
    """The tokens that an engine sampled for one request.

    Attributes:
        key: the key of the request.
        token_ids: the sampled tokens, EOS included.
        finish_reason: "stop" when the reply came to its end, "length" when it reached max_new_tokens before.
        log_probs: the tokens' log-probabilities at temperature 1 and without top-p. A server may report none, or none
            for the EOS; then this list is shorter than `token_ids`.
    """

    key: int
    token_ids: list[int]
    finish_reason: str
    log_probs: list[float]


class EngineError(UserError):
    """An engine died or gave up; the message says why, and what the user can do."""


class EngineStartError(EngineError):
    """The engine that was asked for could not be started; the message says why and where its log is."""


class Engine(Protocol):
    """Samples one reply to each request, in any order.

    An engine serves one policy, which it loads once: `start`, then `submit` and `collect` for each shard in the same
    order, then `stop`.

    Attributes:
        name: the engine's name, for messages and the manifest.
        precision: "float32" or "bfloat16", which the engine computes in; known once it has started.
        remarks: what else the manifest should say about the engine.
    """

    name: str
    precision: str
    remarks: dict[str, Any]

    def start(self) -> None:
        """Load the policy.

        Raises:
            EngineStartError: the policy cannot be loaded.
        """
        ...

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Take a shard; its replies are collected later."""
        ...

    def collect(self) -> list[EngineReply]:
        """Return the replies to the oldest shard that was submitted and not collected.

        Raises:
            EngineError: the engine died or gave up.
            CheckError: the engine renders prompts to other tokens than our renderer does.
        """
        ...

    def stop(self) -> None:
        """Free memory and processes; may be called twice, and on an engine that has not started."""
        ...


@dataclass(frozen=True)
class ShardReplies:
    """The replies to a shard of requests, and what made them: `Engine.name`, `precision` and `remarks`."""

    replies: list[EngineReply]
    engine: str
    precision: str
    remarks: dict[str, Any]


def make_request_seed(seed: int, *key: object) -> int:
    """Return a 63-bit seed for one request: a hash of the run's seed and the request's key."""
    text = "\0".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
