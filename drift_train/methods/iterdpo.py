"""IterDPO: both replies are the policy's own (arXiv 2510.02341, table 1).

Guided, chosen is a reply sampled with complaint and instruction in view, rejected one from x alone. Otherwise both
are sampled from x and a reward model says which is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product

from drift_train.methods.base import GUIDED, PLAIN, Answer, Pair, best_first
from drift_train.methods.examples import Example
from drift_train.options import ExamplesName


def table(examples: ExamplesName, guided: bool) -> str:
    """Return where the prompts are: both kinds are sampled at the places that DRIFT learns from."""
    return "dsat" if examples == "logs" else "preferences"


def kinds(guided: bool) -> Sequence[str]:
    """Return the kinds of the two replies."""
    return (GUIDED, PLAIN) if guided else (PLAIN,)


def logged(example: Example) -> str | None:
    """Return None: no side of the pair is a logged reply."""
    return None


def pairs(example: Example, samples: Mapping[str, Sequence[Answer]]) -> Iterator[Pair]:
    """Yield guided replies against plain ones, or plain ones by the distance of their rewards, best against
    worst first. Replies of equal reward make no pair.
    """
    if GUIDED in samples:
        plain = samples[PLAIN]
        ranked = any(reply.reward is not None for reply in plain)
        yield from product(best_first(samples[GUIDED]), best_first(plain)[::-1] if ranked else plain)
        return
    ranked_pairs = [(_gap(pair), pair) for pair in permutations(best_first(samples[PLAIN]), 2)]
    for _, pair in sorted((each for each in ranked_pairs if each[0] > 0), key=lambda each: -each[0]):
        yield pair


def _gap(pair: Pair) -> float:
    better, worse = pair
    if better.reward is None or worse.reward is None:
        raise ValueError("IterDPO without guidance ranks its samples: they need rewards")
    return better.reward - worse.reward
