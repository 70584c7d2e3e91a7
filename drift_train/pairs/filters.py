"""Filters candidate pairs and writes the `pairs` table, each dropped example with its reason."""

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

LENGTH_STOP = (
    "length_stop"  # reason of a drop: the engine cut the reply at max_new_tokens, it has no end to learn
)
_ROWS_AT_ONCE = 1_000  # rows of the table that are written together


@dataclass(frozen=True)
class PairCandidate:
    """The pairs that one example may become, before the filters.

    Attributes:
        conversation_id: identifies the example together with `turn`.
        turn: index of the user's reaction.
        split: of the example.
        prompt: what the pair is trained on, before its replies.
        pairs: chosen and rejected replies; the first pair that passes the filters is taken. Empty when the reward
            model makes no difference between the samples.
        shortened: the prompt lost its oldest turns when this candidate was made.
    """

    conversation_id: str
    turn: int
    split: str
    prompt: Sequence[Message]
    pairs: Iterable[Pair]
    shortened: bool = False


class PairRefused(Exception):
    """A pair that is not trained on; `reason` is short enough to be counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class PairFilter:
    """The conditions that a pair must meet.

    Attributes:
        renderer: of the policy that will be trained.
        max_length: tokens that training sees of prompt and reply together.
        drop_leaks: refuse a chosen reply that speaks of an earlier reply which the prompt does not show.
    """

    renderer: Renderer
    max_length: int
    drop_leaks: bool

    def shorten_prompt(self, prompt: Sequence[Message], chosen: str, rejected: str) -> Sequence[Message]:
        """Return the prompt without so many of its oldest turns that both replies fit.

        The prompt comes back unchanged where it fits, and where no shortening helps.
        """

        def fits(shorter: Sequence[Message]) -> bool:
            prompt_ids, chosen_ids = self.renderer.pair(shorter, chosen)
            _, rejected_ids = self.renderer.pair(shorter, rejected)
            return len(prompt_ids) + max(len(chosen_ids), len(rejected_ids)) <= self.max_length

        try:
            found = shorten(prompt, fits)
        except RenderError:
            return prompt  # `check` says why it cannot be rendered
        return found[0] if found else prompt

    def check(self, prompt: Sequence[Message], pair: Pair) -> tuple[int, int]:
        """Return the number of tokens of the chosen and of the rejected reply, EOS included.

        Raises:
            PairRefused: the pair is not to be trained on.
        """
        chosen, rejected = (reply.text for reply in pair)
        if any(reply.cut for reply in pair):
            raise PairRefused(LENGTH_STOP, "a sampled reply reached max_new_tokens before its end")
        if not chosen.strip() or not rejected.strip():
            raise PairRefused("empty", "a reply has no text")
        if chosen.strip() == rejected.strip():
            raise PairRefused("equal", "chosen and rejected are the same text")
        # A reply that was written without the complaint may speak of a reply in the prompt, if the prompt has one.
        can_leak = pair[0].informed or all(message["role"] != "assistant" for message in prompt)
        if self.drop_leaks and can_leak and (words := find_leak(chosen)):
            raise PairRefused(
                "leak", f"the chosen reply speaks of one that the prompt does not show: {words!r}"
            )
        try:
            prompt_ids, chosen_ids = self.renderer.pair(prompt, chosen)
            _, rejected_ids = self.renderer.pair(prompt, rejected)
        except RenderError as error:
            raise PairRefused(error.reason, error.detail) from error
        if len(prompt_ids) >= self.max_length:
            raise PairRefused("prompt_fills_context", f"{len(prompt_ids)} tokens of {self.max_length}")
        longest = len(prompt_ids) + max(len(chosen_ids), len(rejected_ids))
        if longest > self.max_length:
            raise PairRefused("completion_cut", f"{longest} tokens do not fit into {self.max_length}")
        return len(chosen_ids), len(rejected_ids)

    def choose_pair(self, candidate: PairCandidate) -> tuple[int, Pair, tuple[int, int]]:
        """Return the first pair that passes: its place in the candidate's order, the pair, and its tokens (`check`).

        Raises:
            PairRefused: no pair passes, with the reason of the first one; or the candidate has none.
        """
        refused: PairRefused | None = None
        for place, pair in enumerate(candidate.pairs):
            try:
                return place, pair, self.check(candidate.prompt, pair)
            except PairRefused as error:
                refused = refused or error
        raise refused or PairRefused("reward_tie", "all samples have the same reward")


def write_pairs(
    output: Output,
    candidates: Iterable[PairCandidate],
    keep: PairFilter,
    method: str,
    policy: str,
    title: str,
) -> None:
    """Write one pair for each example that has one, and the other examples, with their reasons, as dropped rows.

    Args:
        output: of the stage that makes `pairs`.
        candidates: one for each example, of any split.
        keep: the filters.
        method: name of the method, for the table.
        policy: name of the policy that a sampled reply comes from, for the table.
        title: of the progress bar.
    """
    table, counts, total = output.table(PAIRS), Counter[str](), 0
    rows: list[dict[str, Any]] = []
    for candidate in tqdm(candidates, desc=title, unit="pair", mininterval=0.5):
        total += 1
        counts.update(shortened=candidate.shortened)
        key = {"conversation_id": candidate.conversation_id, "turn": candidate.turn}
        try:
            place, (chosen, rejected), (chosen_tokens, rejected_tokens) = keep.choose_pair(candidate)
        except PairRefused as refused:
            output.drop([{**key, "reason": refused.reason, "detail": refused.detail}], DROPPED)
            continue
        counts.update(pairs=1, later=place > 0, chosen=chosen_tokens, rejected=rejected_tokens)
        rows.append(
            {
                **key,
                "prompt": [dict(message) for message in candidate.prompt],
                "chosen": _make_messages(chosen.text),
                "rejected": _make_messages(rejected.text),
                "split": candidate.split,
                "chosen_tokens": chosen_tokens,
                "rejected_tokens": rejected_tokens,
                "method": method,
                "policy": policy,
            }
        )
        if len(rows) == _ROWS_AT_ONCE:
            table.write_rows(rows)
            rows = []
    table.write_rows(rows)
    output.rows_in = total
    kept = max(1, counts["pairs"])
    output.results["shortened_prompts"] = counts["shortened"]
    output.results["mean_chosen_tokens"] = round(counts["chosen"] / kept, 2)
    # Examples with several samples whose best pair the filters refused, so that a later one was taken.
    output.results["later_choices"] = counts["later"]
    output.results["mean_rejected_tokens"] = round(counts["rejected"] / kept, 2)


def _make_messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]
