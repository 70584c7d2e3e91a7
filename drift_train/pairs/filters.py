"""Filters pairs: what must hold before a pair is trained on, and the reason where it does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drift_train.methods.base import Pair
from drift_train.models.render import Messages, Renderer, RenderError, shorten
from drift_train.pairs.leaks import find_leak

# Reason of a drop: the engine cut the reply at max_new_tokens, so the reply has no end to learn.
LENGTH_STOP = "length_stop"


@dataclass(frozen=True)
class PairCandidate:
    """The pairs that one example may become, before the filters.

    Attributes:
        conversation_id: identifies the example together with `turn`.
        turn: index of the user's reaction.
        split: the example's split.
        prompt: what the pair is trained on, before its replies.
        pairs: chosen and rejected replies; the first pair that passes the filters is taken. Empty when the reward
            model makes no difference between the samples.
        shortened: the prompt lost its oldest turns when this candidate was made.
    """

    conversation_id: str
    turn: int
    split: str
    prompt: Messages
    pairs: Iterable[Pair]
    shortened: bool = False


class PairRefused(Exception):
    """A pair is not trained on. Drops are counted by `reason`, which is one word; `detail` explains it."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class PairFilter:
    """The conditions that a pair must meet.

    Attributes:
        renderer: the renderer of the policy that will be trained.
        max_length: tokens that training sees of prompt and reply together.
        drop_leaks: refuse a chosen reply that speaks of an earlier reply which the prompt does not show.
    """

    renderer: Renderer
    max_length: int
    drop_leaks: bool

    def shorten_prompt(self, prompt: Messages, chosen: str, rejected: str) -> Messages:
        """Return the prompt with as few of its oldest turns dropped as it takes for both replies to fit.

        The prompt comes back unchanged where it fits, and where no shortening helps.
        """

        def fits(shorter: Messages) -> bool:
            prompt_ids, chosen_ids = self.renderer.render_pair(shorter, chosen)
            _, rejected_ids = self.renderer.render_pair(shorter, rejected)
            return len(prompt_ids) + max(len(chosen_ids), len(rejected_ids)) <= self.max_length

        try:
            found = shorten(prompt, fits)
        except RenderError:
            return prompt  # `check` says why it cannot be rendered
        return found[0] if found else prompt

    def check(self, prompt: Messages, pair: Pair) -> tuple[int, int]:
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
        # An informed reply has seen a reply that the prompt does not show. Any other reply has seen the prompt alone:
        # where the prompt holds a reply, it may rightly speak of that one.
        can_leak = pair[0].informed or all(message["role"] != "assistant" for message in prompt)
        if self.drop_leaks and can_leak and (words := find_leak(chosen)):
            raise PairRefused(
                "leak", f"the chosen reply speaks of one that the prompt does not show: {words!r}"
            )
        try:
            prompt_ids, chosen_ids = self.renderer.render_pair(prompt, chosen)
            _, rejected_ids = self.renderer.render_pair(prompt, rejected)
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
