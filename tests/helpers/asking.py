"""Requests to a policy, and what a sampler answers them with."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drift_train.models.load import load_renderer
from drift_train.options import PolicySamplingOptions
from drift_train.rollout.engine import EngineReply, SampleRequest, make_request_seed
from drift_train.rollout.sampler import Sampler
from tests.helpers.training_rows import user

OPTIONS = PolicySamplingOptions(engine="transformers", max_prompt_tokens=128, max_new_tokens=24, batch_size=8)


@dataclass(frozen=True)
class Samples:
    """Replies and their texts by key, and what the manifest would say."""

    replies: dict[int, EngineReply]
    texts: dict[int, str]
    made_by: dict[str, Any]

    @property
    def tokens(self) -> dict[int, list[int]]:
        return {key: reply.token_ids for key, reply in self.replies.items()}


def make_requests(policy: Path, count: int = 40) -> list[SampleRequest]:
    renderer = load_renderer(policy)
    made = []
    for i in range(count):
        messages = user(f"please list {'red ' * (i % 5)}{i}")
        made.append(SampleRequest(i, messages, renderer.render_prompt(messages), make_request_seed(0, i)))
    return made


def sample(
    policy: Path,
    requests: list[SampleRequest],
    options: PolicySamplingOptions,
    logs: Path,
    keep: Path | None = None,
    **changed: Any,
) -> Samples:
    """Sample all requests; without `keep` nothing that was sampled before is taken."""
    options = options.model_validate({**options.model_dump(), **changed})
    with Sampler(policy, options, keep or Path(tempfile.mkdtemp(dir=logs)), logs, "t") as sampler:
        sampled = list(sampler.sample(requests, len(requests)))
    assert [one.request.key for one in sampled] == [request.key for request in requests]
    return Samples(
        {one.request.key: one.reply for one in sampled},
        {one.request.key: one.text for one in sampled},
        sampler.made_by,
    )
