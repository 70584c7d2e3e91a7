"""Signs that a training run goes wrong, each with its threshold. Knows numbers, not where they come from.

The margin alone is no stop signal: it keeps growing while a policy collapses. What falls then is the
probability of the chosen replies, what changes is the length, and the sampled replies repeat themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

Steps = Sequence[Mapping[str, float]]


class AlarmOptions(BaseModel):
    """Thresholds. They are rules of thumb of this tool, not the paper's."""

    model_config = ConfigDict(extra="forbid")

    margin_share: float = Field(0.5, ge=0, le=1)  # of the highest margin so far; below it the signal fades
    chosen_reward: float = Field(-0.1, le=0)  # β × log-prob gained over the reference; -0.1 is 1 nat at β 0.1
    accuracy: float = Field(0.55, ge=0.5, le=1)  # at the end; 0.5 is a coin
    length_ratio: float = Field(1.5, gt=1)  # chosen to rejected, or a model's replies to the base model's
    # of what the base model (or the first iteration's samples) has of distinct pairs of words, and of diversity
    distinct_share: float = Field(0.8, gt=0, le=1)
    # nats a token, to the base model or of one iteration. The demo has 0.015 after two iterations, and 0.2 to 0.5 an
    # iteration at twenty times its learning rate, where chosen replies become less likely while margins grow
    kl: float = Field(0.1, gt=0)
    filtered: float = Field(0.5, gt=0, le=1)  # of the candidate pairs: then filters shape the data, not users
    length_stops: float = Field(0.1, gt=0, le=1)  # of the sampled replies
    score_errors: float = Field(2.0, gt=0)  # standard errors that a score may lie below the best before it
    min_steps: int = Field(5, ge=1)  # logged steps that say something about a curve


@dataclass(frozen=True)
class Check:
    """One sign: what was looked at, where, what came out, what would alarm. `alarm` None: too few steps."""

    name: str
    where: str
    value: str
    threshold: str
    alarm: bool | None


@dataclass(frozen=True)
class Replies:
    """What a model's evaluation says: mean score and its standard error, mean tokens, distinct word pairs."""

    model: str
    score: float | None = None
    stderr: float | None = None
    tokens: float | None = None
    distinct: float | None = None


def ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the first and of the last fifth of a curve, at least one value each.

    Medians, since the last batch of an epoch may hold a single pair.
    """
    width = max(1, len(values) // 5)
    return median(values[:width]), median(values[-width:])


def training_checks(iterations: Mapping[int, Steps], options: AlarmOptions) -> list[Check]:
    """Return the checks of every iteration's training steps (rows with TRL's names)."""
    checks, best = [], 0.0
    for iteration, steps in sorted(iterations.items()):
        where = f"M{iteration}"
        margins, chosen, accuracy = (
            [row[name] for row in steps if name in row]
            for name in ("rewards/margins", "rewards/chosen", "rewards/accuracies")
        )
        enough = len(steps) >= options.min_steps
        if margins:
            width = max(3, len(margins) // 5)
            peak = max(
                best, *(median(margins[n : n + width]) for n in range(max(1, len(margins) - width + 1)))
            )
            end = ends(margins)[1]
            if iteration and enough:  # the warm start has other data and other epochs
                best = max(best, end)
            limit = options.margin_share * peak
            falling = end <= limit
            checks.append(
                Check(
                    "margin falling toward 0",
                    where,
                    f"{end:.3g}",
                    f"≤ {limit:.2g}",
                    falling if enough else None,
                )
            )
        if chosen:
            end = ends(chosen)[1]
            low = end < options.chosen_reward if enough else None
            checks.append(
                Check(
                    "chosen replies less likely", where, f"{end:.3g}", f"< {options.chosen_reward:.3g}", low
                )
            )
        if accuracy:
            end = ends(accuracy)[1]
            flat = end < options.accuracy if enough else None
            checks.append(
                Check("accuracy flat at 0.5", where, f"{end:.2f}", f"< {options.accuracy:.2f}", flat)
            )
    return checks


def length_check(name: str, where: str, ratio: float, options: AlarmOptions) -> Check:
    """Return the check of one ratio of lengths, alarming in both directions."""
    low, high = 1 / options.length_ratio, options.length_ratio
    return Check(name, where, f"{ratio:.2f}", f"< {low:.2f} or > {high:.2f}", not low <= ratio <= high)


def reply_checks(models: Sequence[Replies], options: AlarmOptions) -> list[Check]:
    """Return the checks of what the models say: length and repetition against the first, and the score."""
    if not models:
        return []
    checks = []
    base, best = models[0], models[0]
    for model in models[1:]:
        if base.tokens and model.tokens is not None:
            name = "replies longer or shorter than the base model's"
            checks.append(length_check(name, model.model, model.tokens / base.tokens, options))
        if base.distinct and model.distinct is not None:
            share, limit = model.distinct / base.distinct, options.distinct_share
            name = "replies repeat themselves more"
            checks.append(Check(name, model.model, f"{share:.2f}", f"< {limit:.2f}", share < limit))
        if model.score is not None and best.score is not None:
            error = ((model.stderr or 0.0) ** 2 + (best.stderr or 0.0) ** 2) ** 0.5
            limit = best.score - options.score_errors * error
            name = f"score below {best.model}'s"
            checks.append(
                Check(name, model.model, f"{model.score:.3f}", f"< {limit:.3f}", model.score < limit)
            )
            best = model if model.score > best.score else best
    return checks
