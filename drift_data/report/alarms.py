"""Checks a training run for signs that the run goes wrong, each sign against a threshold.

The margin alone does not say when to stop: it keeps growing while a policy collapses. In a collapse the chosen replies
become less likely, the length of replies changes, and sampled replies repeat themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from drift_data.report.options import AlarmOptions

Steps = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Check:
    """One sign that a run may go wrong, as it is shown."""

    name: str  # the sign
    where: str  # the model or the pairs that were checked, such as "M1 pairs"
    value: str  # what was found
    threshold: str  # which values alarm, such as "< 0.8"
    alarm: bool | None  # None: there are too few steps to tell


@dataclass(frozen=True)
class ModelReplies:
    """What an evaluation says about a model's replies. A figure that the evaluation does not have is None."""

    model: str
    score: float | None = None  # mean over prompts
    stderr: float | None = None  # standard error of the score
    tokens: float | None = None  # mean length of a reply
    distinct: float | None = None  # mean share of a reply's word pairs that do not repeat an earlier pair


def compute_end_medians(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the first and of the last fifth of a curve, of at least one value each.

    A median is used because the last batch of an epoch may hold a single pair.
    """
    width = max(1, len(values) // 5)
    return median(values[:width]), median(values[-width:])


def check_training(iterations: Mapping[int, Steps], options: AlarmOptions) -> list[Check]:
    """Return the checks of the training curves.

    Args:
        iterations: number of the iteration → its logged steps, with TRL's names of the metrics.
        options: thresholds.
    """
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
            end = compute_end_medians(margins)[1]
            if iteration and enough:  # the warm start does not count: it has other data and other epochs
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
            end = compute_end_medians(chosen)[1]
            low = end < options.chosen_reward if enough else None
            checks.append(
                Check(
                    "chosen replies less likely", where, f"{end:.3g}", f"< {options.chosen_reward:.3g}", low
                )
            )
        if accuracy:
            end = compute_end_medians(accuracy)[1]
            flat = end < options.accuracy if enough else None
            checks.append(
                Check("accuracy flat at 0.5", where, f"{end:.2f}", f"< {options.accuracy:.2f}", flat)
            )
    return checks


def check_length_ratio(name: str, where: str, ratio: float, options: AlarmOptions) -> Check:
    """Return the check of a ratio of two lengths, which alarms in both directions."""
    low, high = 1 / options.length_ratio, options.length_ratio
    return Check(name, where, f"{ratio:.2f}", f"< {low:.2f} or > {high:.2f}", not low <= ratio <= high)


def check_replies(models: Sequence[ModelReplies], options: AlarmOptions) -> list[Check]:
    """Return the checks of the models' replies.

    Length and repetition are compared with those of the first model, the score with the best score of an earlier model.
    """
    if not models:
        return []
    checks = []
    base, best = models[0], models[0]
    for model in models[1:]:
        if base.tokens and model.tokens is not None:
            name = "replies longer or shorter than the base model's"
            checks.append(check_length_ratio(name, model.model, model.tokens / base.tokens, options))
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
