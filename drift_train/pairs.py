"""Turns candidate pairs into the `pairs` table: every filter, each drop with its reason.

Knows rendering and leaks; nothing about how the chosen and the rejected reply came to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from drift_data.schema import DROPPED, PAIRS
from drift_data.workspace import Output
from drift_train.leaks import find_leak
from drift_train.render import Message, Renderer, RenderError, shorten

TRAIN = "train"
_CHUNK = 1_000  # rows written at once
LENGTH_STOP = "length_stop"  # the engine cut the reply at max_new_tokens: it has no end to learn


@dataclass(frozen=True)
class Candidate:
    """A pair before the filters. `cut` says that one of its replies is a rollout that stopped for length."""

    conversation_id: str
    turn: int
    split: str
    prompt: Sequence[Message]
    chosen: str
    rejected: str
    cut: bool = False


class Refused(Exception):
    """A candidate that is not trained on."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class PairFilter:
    """What a pair has to be like.

    Attributes:
        renderer: of the policy that will be trained.
        max_length: tokens that training sees of prompt and reply together.
        drop_leaks: refuse a chosen reply that speaks of an earlier one.
    """

    renderer: Renderer
    max_length: int
    drop_leaks: bool

    def shortened(self, prompt: Sequence[Message], chosen: str, rejected: str) -> Sequence[Message]:
        """Return the prompt, without its oldest turns if only so both replies fit; as it is where nothing helps."""

        def fits(shorter: Sequence[Message]) -> bool:
            start, better = self.renderer.pair(shorter, chosen)
            _, worse = self.renderer.pair(shorter, rejected)
            return len(start) + max(len(better), len(worse)) <= self.max_length

        try:
            found = shorten(prompt, fits)
        except RenderError:
            return prompt  # `lengths` says why it cannot be rendered
        return found[0] if found else prompt

    def lengths(self, pair: Candidate) -> tuple[int, int]:
        """Return the tokens of the chosen and of the rejected reply, EOS included.

        Raises:
            Refused: the pair is not to be trained on.
        """
        if pair.cut:
            raise Refused(LENGTH_STOP, "a sampled reply reached max_new_tokens before its end")
        if not pair.chosen.strip() or not pair.rejected.strip():
            raise Refused("empty", "a reply has no text")
        if pair.chosen.strip() == pair.rejected.strip():
            raise Refused("equal", "chosen and rejected are the same text")
        if self.drop_leaks and (words := find_leak(pair.chosen)):
            raise Refused("leak", f"the chosen reply speaks of one that the prompt does not show: {words!r}")
        try:
            prompt, chosen = self.renderer.pair(pair.prompt, pair.chosen)
            _, rejected = self.renderer.pair(pair.prompt, pair.rejected)
        except RenderError as error:
            raise Refused(error.reason, error.detail) from error
        if len(prompt) >= self.max_length:
            raise Refused("prompt_fills_context", f"{len(prompt)} tokens of {self.max_length}")
        longest = len(prompt) + max(len(chosen), len(rejected))
        if longest > self.max_length:
            raise Refused("completion_cut", f"{longest} tokens do not fit into {self.max_length}")
        return len(chosen), len(rejected)


def write_pairs(
    output: Output, candidates: Iterable[Candidate], keep: PairFilter, method: str, policy: str, title: str
) -> None:
    """Write the pairs that pass the filters, and the others with their reasons beside them.

    Args:
        output: of the stage that makes `pairs`.
        candidates: all of them, of any split.
        keep: the filters.
        method: goes into the table.
        policy: the policy that a sampled reply comes from, for the table.
        title: of the progress bar.
    """
    table, lengths, total = output.table(PAIRS), Counter[str](), 0
    rows: list[dict[str, Any]] = []
    for pair in tqdm(candidates, desc=title, unit="pair", mininterval=0.5):
        total += 1
        key = {"conversation_id": pair.conversation_id, "turn": pair.turn}
        try:
            chosen_tokens, rejected_tokens = keep.lengths(pair)
        except Refused as refused:
            output.drop([{**key, "reason": refused.reason, "detail": refused.detail}], DROPPED)
            continue
        lengths.update(pairs=1, chosen=chosen_tokens, rejected=rejected_tokens)
        rows.append(
            {
                **key,
                "prompt": [dict(message) for message in pair.prompt],
                "chosen": _reply(pair.chosen),
                "rejected": _reply(pair.rejected),
                "split": pair.split,
                "chosen_tokens": chosen_tokens,
                "rejected_tokens": rejected_tokens,
                "method": method,
                "policy": policy,
            }
        )
        if len(rows) == _CHUNK:
            table.write_rows(rows)
            rows = []
    table.write_rows(rows)
    output.rows_in = total
    kept = max(1, lengths["pairs"])
    output.results["mean_chosen_tokens"] = round(lengths["chosen"] / kept, 2)
    output.results["mean_rejected_tokens"] = round(lengths["rejected"] / kept, 2)


def _reply(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]
