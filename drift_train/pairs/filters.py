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
from drift_train.methods.base import Pair
from drift_train.models.render import Message, Renderer, RenderError, shorten
from drift_train.pairs.leaks import find_leak

TRAIN = "train"
_CHUNK = 1_000  # rows written at once
LENGTH_STOP = "length_stop"  # the engine cut the reply at max_new_tokens: it has no end to learn


@dataclass(frozen=True)
class Candidate:
    """What one example may become, before the filters.

    Attributes:
        conversation_id: with `turn` the key of the example.
        turn: see there.
        split: of the example.
        prompt: that the pair is trained on.
        pairs: chosen and rejected reply; the first pair that passes the filters is taken. None at all: a reward
            model makes no difference between the samples.
        shortened: the prompt has lost its oldest turns here.
    """

    conversation_id: str
    turn: int
    split: str
    prompt: Sequence[Message]
    pairs: Iterable[Pair]
    shortened: bool = False


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
        drop_leaks: refuse a chosen reply that speaks of an earlier one which the prompt does not show.
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

    def lengths(self, prompt: Sequence[Message], pair: Pair) -> tuple[int, int]:
        """Return the tokens of the chosen and of the rejected reply, EOS included.

        Raises:
            Refused: the pair is not to be trained on.
        """
        chosen, rejected = (answer.text for answer in pair)
        if any(answer.cut for answer in pair):
            raise Refused(LENGTH_STOP, "a sampled reply reached max_new_tokens before its end")
        if not chosen.strip() or not rejected.strip():
            raise Refused("empty", "a reply has no text")
        if chosen.strip() == rejected.strip():
            raise Refused("equal", "chosen and rejected are the same text")
        # what an uninformed reply speaks of may be in the prompt, if that has a reply at all
        leaks = pair[0].informed or all(message["role"] != "assistant" for message in prompt)
        if self.drop_leaks and leaks and (words := find_leak(chosen)):
            raise Refused("leak", f"the chosen reply speaks of one that the prompt does not show: {words!r}")
        try:
            start, better = self.renderer.pair(prompt, chosen)
            _, worse = self.renderer.pair(prompt, rejected)
        except RenderError as error:
            raise Refused(error.reason, error.detail) from error
        if len(start) >= self.max_length:
            raise Refused("prompt_fills_context", f"{len(start)} tokens of {self.max_length}")
        longest = len(start) + max(len(better), len(worse))
        if longest > self.max_length:
            raise Refused("completion_cut", f"{longest} tokens do not fit into {self.max_length}")
        return len(better), len(worse)

    def first(self, candidate: Candidate) -> tuple[int, Pair, tuple[int, int]]:
        """Return the first pair that passes: its place in the candidate's order, itself, and `lengths`.

        Raises:
            Refused: none passes, for the reason of the first one; or there is none.
        """
        refused: Refused | None = None
        for place, pair in enumerate(candidate.pairs):
            try:
                return place, pair, self.lengths(candidate.prompt, pair)
            except Refused as error:
                refused = refused or error
        raise refused or Refused("reward_tie", "all samples have the same reward")


def write_pairs(
    output: Output, candidates: Iterable[Candidate], keep: PairFilter, method: str, policy: str, title: str
) -> None:
    """Write one pair an example that passes the filters, and the other examples with their reasons beside them.

    Args:
        output: of the stage that makes `pairs`.
        candidates: all of them, of any split.
        keep: the filters.
        method: goes into the table.
        policy: the policy that a sampled reply comes from, for the table.
        title: of the progress bar.
    """
    table, counts, total = output.table(PAIRS), Counter[str](), 0
    rows: list[dict[str, Any]] = []
    for candidate in tqdm(candidates, desc=title, unit="pair", mininterval=0.5):
        total += 1
        counts.update(shortened=candidate.shortened)
        key = {"conversation_id": candidate.conversation_id, "turn": candidate.turn}
        try:
            place, (chosen, rejected), (chosen_tokens, rejected_tokens) = keep.first(candidate)
        except Refused as refused:
            output.drop([{**key, "reason": refused.reason, "detail": refused.detail}], DROPPED)
            continue
        counts.update(pairs=1, later=place > 0, chosen=chosen_tokens, rejected=rejected_tokens)
        rows.append(
            {
                **key,
                "prompt": [dict(message) for message in candidate.prompt],
                "chosen": _reply(chosen.text),
                "rejected": _reply(rejected.text),
                "split": candidate.split,
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
    kept = max(1, counts["pairs"])
    output.results["shortened_prompts"] = counts["shortened"]
    output.results["mean_chosen_tokens"] = round(counts["chosen"] / kept, 2)
    # of several samples another one was taken, as the filters refused the method's first choice
    output.results["later_choices"] = counts["later"]
    output.results["mean_rejected_tokens"] = round(counts["rejected"] / kept, 2)


def _reply(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]
