"""IterDPO: both replies are the policy's own (arXiv 2510.02341, table 1).

Guided, chosen is a reply sampled with complaint and instruction in view, rejected is one sampled from the prompt x
alone. Without guidance both are sampled from x, and a reward model says which is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product

from drift_train.methods.base import GUIDED, PLAIN, Pair, Reply, sort_by_reward
from drift_train.methods.examples import Example
from drift_train.options import ExamplesName


def is_guided_by_default(examples: ExamplesName) -> bool:
    """Return True for logs and False for preference pairs (paper, table 1)."""
    return examples == "logs"


def compares_samples(guided: bool) -> bool:
    """Say whether both sides of a pair are samples of x alone, so that only a reward can tell them apart."""
    return not guided


def examples_table(examples: ExamplesName, guided: bool) -> str:
    """Return the table that holds the prompts: IterDPO samples at the places that DRIFT learns from."""
    return "dsat" if examples == "logs" else "preferences"


def rollout_kinds(guided: bool) -> Sequence[str]:
    """Return the kinds of the two replies."""
    return (GUIDED, PLAIN) if guided else (PLAIN,)


def logged_reply(example: Example) -> str | None:
    """Return None: no side of the pair is a logged reply."""
    return None


def pair_replies(example: Example, samples: Mapping[str, Sequence[Reply]]) -> Iterator[Pair]:
    """Yield guided replies against plain ones, or, without guidance, plain replies against each other.

    With rewards, the best guided reply against the worst plain one comes first. Plain replies are paired with each other
    by falling distance of their rewards, so the best against the worst comes first; two replies of equal reward make no
    pair.
    """
    if GUIDED in samples:
        plain = samples[PLAIN]
        ranked = any(reply.reward is not None for reply in plain)
        yield from product(sort_by_reward(samples[GUIDED]), sort_by_reward(plain)[::-1] if ranked else plain)
        return
    ranked_pairs = [
        (_reward_distance(pair), pair) for pair in permutations(sort_by_reward(samples[PLAIN]), 2)
    ]
    for _, pair in sorted((each for each in ranked_pairs if each[0] > 0), key=lambda each: -each[0]):
        yield pair


def _reward_distance(pair: Pair) -> float:
    better, worse = pair
    if better.reward is None or worse.reward is None:
        raise ValueError("IterDPO without guidance ranks its samples: they need rewards")
    return better.reward - worse.reward
