"""Rehearses a training: two updates on the longest batches that can occur, thrown away.

What would stop the training thus stops the run before hours of sampling: too little memory, a template that TRL reads
differently, a missing tracker, a wrong launch configuration, a model that cannot be saved. The pairs are made of the
examples' own texts.
"""

from __future__ import annotations

import bisect
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from drift_data.workspace import UserError
from drift_train.methods.examples import TRAIN_SPLIT, Example
from drift_train.models.load import load_renderer
from drift_train.models.render import Messages, Renderer, RenderError, shorten
from drift_train.options import TrainOptions


def rehearse(
    policy: Path,
    reference: Path,
    examples: Iterable[Example],
    options: TrainOptions,
    folder: Path,
    title: str,
) -> None:
    """Make two updates of a copy of `policy`, save it, and forget it.

    There are two updates because the optimizer's state exists only when the second begins. An update has two micro-batches
    where the training accumulates, because gradients are then held beside a forward.

    Args:
        policy: model folder.
        reference: model folder of DPO's reference.
        examples: those of the first iteration.
        options: options of the training.
        folder: gets temporary files, which are removed.
        title: name of the progress bar.

    Raises:
        UserError: no example can be rendered, or as `train`.
        CheckError: as `train`.
    """
    from drift_train.dpo.train import run_training
    from drift_train.dpo.trainer import check_trackers

    check_trackers(options.report_to)
    size = options.global_batch  # it is not known here how many processes will share it
    if options.launch is None:
        size = min(size, 2 * options.per_device_batch)
    pairs = make_longest_pairs(examples, load_renderer(policy), options.max_length, options.per_device_batch)
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=folder) as scratch:
        run_training(
            {
                "policy": policy,
                "reference": reference,
                "pairs": [pairs[i % len(pairs)] for i in range(2 * size)],
                "target": Path(scratch) / "model",
                "metrics": Path(scratch) / "metrics.jsonl",
                "options": options.model_copy(update={"global_batch": size, "epochs": 1, "report_to": []}),
                "iteration": 0,
                "method": "rehearsal",
                "title": title,
                "unfinished": Path(scratch),
            }
        )


def make_longest_pairs(
    examples: Iterable[Example], renderer: Renderer, max_length: int, count: int
) -> list[dict[str, Any]]:
    """Return up to `count` rows of a `pairs` table whose replies fill `max_length` with repeated texts of the examples.

    Raises:
        UserError: no example can be rendered.
    """
    found: list[dict[str, Any]] = []
    refused = "there is none"
    for example in examples:
        reply, other = example.rejected or example.chosen or "", example.prompt[-1]["content"]
        try:
            found.append(_make_longest_pair(example, reply, other, renderer, max_length))
        except RenderError as error:
            refused = f"{example.conversation_id}, turn {example.turn}: {error}"
        if len(found) == count:
            break
    if not found:
        raise UserError(
            f"No example can be rendered for training with max_length {max_length}; the last one: {refused}. Raise "
            "max_length, or look at the model's chat template."
        )
    return found


def _make_longest_pair(
    example: Example, reply: str, other: str, renderer: Renderer, max_length: int
) -> dict[str, Any]:
    def fits(messages: Messages) -> bool:
        return len(renderer.render_prompt(messages)) <= max_length // 2

    shorter = shorten(example.prompt, fits)
    if shorter is None:
        raise RenderError("prompt_fills_context", f"the last message alone has over {max_length // 2} tokens")
    prompt = [dict(message) for message in shorter[0]]
    chosen, chosen_tokens = _fill_to_max_length(prompt, f"{reply}\n", renderer, max_length)
    rejected, rejected_tokens = _fill_to_max_length(prompt, f"{other} ", renderer, max_length)
    if chosen == rejected:
        raise RenderError("equal", "reply and question are the same text")
    return {
        "conversation_id": example.conversation_id,
        "turn": example.turn,
        "split": TRAIN_SPLIT,
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "chosen_tokens": chosen_tokens,
        "rejected_tokens": rejected_tokens,
    }


def _fill_to_max_length(prompt: Messages, text: str, renderer: Renderer, max_length: int) -> tuple[str, int]:
    """Repeat a text until prompt and reply have just `max_length` tokens; return the text and its number of tokens."""

    def tokens(characters: int) -> int:
        repeated = (text * (characters // len(text) + 1))[:characters]
        return sum(map(len, renderer.render_pair(prompt, repeated)))

    longest = 1
    while tokens(2 * longest) <= max_length:
        longest *= 2
    characters = bisect.bisect_right(range(2 * longest), max_length, lo=1, key=tokens) - 1
    repeated = (text * (characters // len(text) + 1))[: max(characters, 1)]
    return repeated, len(renderer.render_pair(prompt, repeated)[1])
