"""Samples with plain batched `generate`, one seed for each request. Needs nothing but transformers; slow on long
replies.

A reply depends on its request and seed, not on its neighbours in the batch, up to rounding: padding changes
the order of summation, and a draw that falls within ~1e-6 of a boundary may then take the next token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from drift_train.models.load import choose_device, free_memory, load_model
from drift_train.options import PolicySamplingOptions
from drift_train.rollout.engine import EngineReply, SampleRequest


class SeededSampling(LogitsProcessor):  # type: ignore[misc]
    """Draws the next token by inverse CDF, from one uniform number for each row and step, and leaves only that token.

    `generate` then runs greedily. The log-probability of each drawn token, before temperature and top-p, is kept in
    `log_probs`.

    Args:
        uniforms: numbers in [0, 1), float64, shape (rows, steps).
        temperature: 0 takes the most probable token.
        top_p: the smallest set of tokens with at least this mass is drawn from.
    """

    def __init__(self, uniforms: torch.Tensor, temperature: float, top_p: float) -> None:
        self.uniforms, self.temperature, self.top_p = uniforms, temperature, top_p
        self.log_probs: list[torch.Tensor] = []  # one tensor for each step, shape (rows,)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (rows, vocabulary) with 0 at the drawn token and −∞ elsewhere."""
        raw = torch.log_softmax(scores.float(), dim=-1)
        token = self._draw(raw)
        self.log_probs.append(raw.gather(1, token).squeeze(1))
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)

    def _draw(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the drawn tokens, shape (rows, 1).

        Within the nucleus tokens stand in the order of their ids. In the order of their probabilities, two tokens of
        about equal probability would change places with the rounding, and change even a draw far from any boundary.
        """
        if self.temperature == 0:
            return raw.argmax(dim=-1, keepdim=True)
        probabilities = torch.softmax(raw.double() / self.temperature, dim=-1)
        ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
        out = ordered.cumsum(dim=-1) - ordered >= self.top_p  # False for the first token, which always stays
        kept = probabilities.masked_fill(torch.zeros_like(out).scatter_(1, tokens, out), 0.0)
        mass = kept.cumsum(dim=-1)
        total = mass[:, -1:]
        # The product may be rounded up to the total, which would draw a token outside of the nucleus.
        below_total = torch.nextafter(total, torch.zeros_like(total))
        threshold = torch.minimum(self.uniforms[:, len(self.log_probs), None] * total, below_total)
        return torch.searchsorted(mass, threshold, right=True)


class TransformersEngine:
    """Batched `generate` in this process: float32 on a CPU, bfloat16 on a GPU.

    Args:
        policy: folder of the model.
        stop: ids of the tokens that end a reply.
        options: sampling, and the size of a batch.
        progress: called with the number of replies that came.
    """

    name = "transformers"

    def __init__(
        self,
        policy: Path,
        stop: Sequence[int],
        options: PolicySamplingOptions,
        progress: Callable[[int], Any],
    ) -> None:
        self._policy, self._stop, self._options, self._progress = policy, list(stop), options, progress
        self._waiting: deque[Sequence[SampleRequest]] = deque()
        self._model: Any = None
        self.precision = "bfloat16" if choose_device().type == "cuda" else "float32"
        self.remarks: dict[str, Any] = {}

    def start(self) -> None:
        """Load the policy."""
        self._model = load_model(self._policy, getattr(torch, self.precision))

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Take a shard."""
        self._waiting.append(requests)

    def collect(self) -> list[EngineReply]:
        """Sample a reply to each request of a shard, prompts of similar length together."""
        requests = self._waiting.popleft()
        ordered = sorted(requests, key=lambda request: len(request.prompt_ids), reverse=True)
        replies: list[EngineReply] = []
        for start in range(0, len(ordered), self._options.batch_size):
            batch = ordered[start : start + self._options.batch_size]
            replies += self._sample_batch(batch)
            self._progress(len(batch))
        return replies

    def stop(self) -> None:
        """Free the memory."""
        self._model = None
        free_memory()

    def _sample_batch(self, batch: Sequence[SampleRequest]) -> list[EngineReply]:
        options, model = self._options, self._model
        width = max(len(request.prompt_ids) for request in batch)
        ids = torch.full((len(batch), width), self._stop[0])  # (batch, width); padded on the left, masked out
        mask = torch.zeros_like(ids)
        for row, request in enumerate(batch):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, width - len(request.prompt_ids) :] = 1
        uniforms = torch.stack(
            [
                torch.rand(
                    options.max_new_tokens,
                    dtype=torch.float64,
                    generator=torch.Generator().manual_seed(request.seed),
                )
                for request in batch
            ]
        )
        sampling = SeededSampling(uniforms.to(model.device), options.temperature, options.top_p)
        # the model's own sampling defaults (Qwen2.5 ships a repetition penalty) must not leak in
        model.generation_config = GenerationConfig(pad_token_id=self._stop[0], eos_token_id=self._stop)
        with torch.no_grad():
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=options.max_new_tokens,
                    pad_token_id=self._stop[0],
                    eos_token_id=self._stop,
                ),
                logits_processor=LogitsProcessorList([sampling]),
            )
        tokens = output[:, width:].tolist()
        log_probs = torch.stack(sampling.log_probs, dim=1).tolist()
        return [
            self._make_reply(request, row, values)
            for request, row, values in zip(batch, tokens, log_probs, strict=True)
        ]

    def _make_reply(self, request: SampleRequest, tokens: list[int], log_probs: list[float]) -> EngineReply:
        end = next((i + 1 for i, token in enumerate(tokens) if token in self._stop), None)
        reason = "length" if end is None else "stop"
        return EngineReply(request.key, tokens[:end], reason, log_probs[:end])
