"""What an engine is asked and what it answers: the contract between `sampler` and the engines."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from drift_data.workspace import UserError
from drift_train.models.render import Message

ENGINE_LOGS = "logs"  # folder of the workspace for the engines' own logs


@dataclass(frozen=True)
class Request:
    """One reply to be sampled. `key` joins it with its reply, `seed` makes it the same in any batch."""

    key: int
    messages: Sequence[Message]
    prompt_ids: Sequence[int]
    seed: int


@dataclass(frozen=True)
class Reply:
    """Tokens as sampled, EOS included, with their log-probabilities at temperature 1 and without top-p.

    A server may report no log-probabilities, or none of the EOS; then `log_probs` is shorter than `token_ids`.
    """

    key: int
    token_ids: list[int]
    finish_reason: str  # stop | length
    log_probs: list[float]


class EngineError(UserError):
    """The engine died or gave up; the message says why, and what the user can do."""


class EngineStartError(EngineError):
    """The engine that was asked for could not be started; the message says why and where its log is."""


class Engine(Protocol):
    """Samples one reply to each request, in any order.

    A policy is loaded once: start, then for each shard submit and collect, in the same order, then stop.
    """

    name: str
    precision: str  # it computes in, as torch calls it; known once it has started
    remarks: dict[str, Any]  # what the manifest should say of it

    def start(self) -> None:
        """Load the policy.

        Raises:
            EngineStartError: it cannot.
        """
        ...

    def submit(self, requests: Sequence[Request]) -> None:
        """Take a shard; its replies are collected later."""
        ...

    def collect(self) -> list[Reply]:
        """Return the replies to the oldest shard that was submitted and not collected.

        Raises:
            EngineError: it died or gave up.
            CheckError: it renders prompts to other tokens than ours.
        """
        ...

    def stop(self) -> None:
        """Give everything back; may be called twice, and when it has not started."""
        ...


@dataclass(frozen=True)
class ShardReplies:
    """The replies to a shard, and how they were made."""

    replies: list[Reply]
    engine: str
    precision: str  # the engine computed in
    remarks: dict[str, Any]


def request_seed(seed: int, *key: object) -> int:
    """Return a 63-bit seed for one request: a hash of the run's seed and the request's key."""
    text = "\0".join(str(part) for part in (seed, *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
