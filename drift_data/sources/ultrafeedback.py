"""Reads UltraFeedback as preference pairs: openbmb's rated completions, or the binarized form with its splits.

In the binarized form, `chosen` and `rejected` hold whole dialogues, whose last message is the reply and whose rest is
the prompt. Only its splits of preferences are read, and it has no feedback. Of the rated completions, the chosen reply
has the highest mean rating. The rejected reply is one of those rated lower, picked by a hash of the prompt so that it is
the same in every run; its critique is the feedback.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from drift_data.schema import TableName
from drift_data.sources.fields import parse_messages, parse_text
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import check_keys, iter_objects
from drift_data.sources.rows import (
    Piece,
    ReadyExample,
    SetAside,
    cut_excerpt,
    gather_examples,
)
from drift_data.workspace import UserError

_SPLITS_WITHOUT_PAIRS = ("_sft", "_gen")


def list_tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the names of the tables that UltraFeedback gives."""
    return (TableName.PREFERENCES,)


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the pairs of all files."""
    others = [file.name for file in files if any(split in file.name for split in _SPLITS_WITHOUT_PAIRS)]
    if len(others) == len(files):
        raise UserError(
            f"None of {', '.join(others)} holds preferences: train_prefs or test_prefs is needed."
        )
    if others:
        tally.notes["files_left_out"] = others
    for file in files:
        if file.name not in others:
            yield from gather_examples(TableName.PREFERENCES, file.name, _iter_pairs(file, tally))


def _iter_pairs(file: RawFile, tally: Tally) -> Iterator[ReadyExample | SetAside]:
    """Yield every row of a file, of either form, as a pair; the first row is checked for the layout."""
    split = "test" if "test_prefs" in file.name else "train" if "train_prefs" in file.name else None
    checked = False
    for row in iter_objects(file, tally, TableName.PREFERENCES):
        if isinstance(row, SetAside):
            yield row
            continue
        position, value = row
        if not checked:
            rated = "completions" in value
            keys = [["instruction"], ["completions"]] if rated else [["prompt"], ["chosen"], ["rejected"]]
            check_keys(file, value, keys, "UltraFeedback")
            checked = True
        found = _read_rated_pair(value) if "completions" in value else _read_binarized_pair(value)
        if isinstance(found, str):
            yield ReadyExample(position, None, found, cut_excerpt(value))
        else:
            yield ReadyExample(position, found | ({"split": split} if split else {}))


def _read_binarized_pair(row: Mapping[str, Any]) -> dict[str, Any] | str:
    """Return the pair of a row with two whole dialogues (or two replies as text), or the reason why it has none."""
    prompt = parse_text(row.get("prompt"))
    dialogues = []
    for side in ("chosen", "rejected"):
        value = row.get(side)
        if isinstance(value, str):
            value = [{"role": "user", "content": prompt}, {"role": "assistant", "content": value}]
        dialogue, problem = parse_messages(value)
        if dialogue is None:
            return problem or "no_messages"
        if len(dialogue) == 1:
            dialogue = [{"role": "user", "content": prompt}, *dialogue]
        dialogues.append(dialogue)
    chosen, rejected = dialogues
    if chosen[:-1] != rejected[:-1]:
        return "prompts_differ"
    metadata = row.get("metadata")
    scores = metadata if isinstance(metadata, Mapping) else row
    return {
        "conversation_id": parse_text(row.get("prompt_id")),
        "prompt": chosen[:-1],
        "chosen": chosen[-1:],
        "rejected": rejected[-1:],
        **{name: _parse_number(scores.get(name)) for name in ("score_chosen", "score_rejected")},
    }


def _read_rated_pair(row: Mapping[str, Any]) -> dict[str, Any] | str:
    """Return the pair of a row with rated completions, or the reason why it has none."""
    prompt, completions = parse_text(row.get("instruction")), row.get("completions")
    if prompt is None or not isinstance(completions, Sequence):
        return "malformed_messages"
    rated = []
    for completion in completions:
        score = compute_mean_rating(completion) if isinstance(completion, Mapping) else None
        response = completion.get("response") if score is not None else None
        if score is not None and isinstance(response, str):
            rated.append((score, response, parse_text(completion.get("critique"))))
    if len(rated) < 2:
        return "fewer_than_two_rated_completions"
    best = max(rated, key=lambda each: each[0])
    worse = [each for each in rated if each[0] < best[0]]
    if not worse:
        return "all_rated_the_same"
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
    other = worse[int.from_bytes(digest[:8]) % len(worse)]
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": best[1]}],
        "rejected": [{"role": "assistant", "content": other[1]}],
        "score_chosen": best[0],
        "score_rejected": other[0],
        "feedback": other[2],
    }


def compute_mean_rating(completion: Mapping[str, Any]) -> float | None:
    """Return the mean of a completion's ratings (1 to 5; "N/A" does not count), or None if it has no rating."""
    annotations = completion.get("annotations")
    if not isinstance(annotations, Mapping):
        return None
    ratings = [
        float(rating)
        for aspect in annotations.values()
        if isinstance(aspect, Mapping) and (rating := str(aspect.get("Rating"))) in {"1", "2", "3", "4", "5"}
    ]
    return fmean(ratings) if ratings else None


def _parse_number(value: Any) -> float | None:
    """Return a number as a float, and None for anything else."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:  # an integer of hundreds of digits
        return None
