"""UltraFeedback as preference pairs: openbmb's rated completions, and the binarized form with its splits.

Binarized: `chosen` and `rejected` hold the whole dialogue, of which all but the last message is the prompt;
only its splits of preferences are read. Rated completions: chosen has the highest mean rating, rejected
is one of those rated lower, picked by a hash of the prompt, so that it is the same in every run; its critique is
the feedback. The binarized form has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from drift_data.schema import TableName
from drift_data.sources.fields import messages, text
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import check_keys, object_rows
from drift_data.sources.rows import (
    Example,
    Piece,
    SetAside,
    examples_from_rows,
    excerpt,
)
from drift_data.workspace import UserError

_OTHER_SPLITS = ("_sft", "_gen")


def tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the tables that come out."""
    return (TableName.PREFERENCES,)


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the pairs of all files."""
    others = [file.name for file in files if any(split in file.name for split in _OTHER_SPLITS)]
    if len(others) == len(files):
        raise UserError(
            f"None of {', '.join(others)} holds preferences: train_prefs or test_prefs is needed."
        )
    if others:
        tally.notes["files_left_out"] = others
    for file in files:
        if file.name not in others:
            yield from examples_from_rows(TableName.PREFERENCES, file.name, _rows(file, tally))


def _rows(file: RawFile, tally: Tally) -> Iterator[Example | SetAside]:
    split = "test" if "test_prefs" in file.name else "train" if "train_prefs" in file.name else None
    checked = False
    for row in object_rows(file, tally, TableName.PREFERENCES):
        if isinstance(row, SetAside):
            yield row
            continue
        position, value = row
        if not checked:
            rated = "completions" in value
            keys = [["instruction"], ["completions"]] if rated else [["prompt"], ["chosen"], ["rejected"]]
            check_keys(file, value, keys, "UltraFeedback")
            checked = True
        found = _rated(value) if "completions" in value else _binarized(value)
        if isinstance(found, str):
            yield Example(position, None, found, excerpt(value))
        else:
            yield Example(position, found | ({"split": split} if split else {}))


def _binarized(row: Mapping[str, Any]) -> dict[str, Any] | str:
    """Return the pair of a row with two whole dialogues (or two replies as text), or why there is none."""
    prompt = text(row.get("prompt"))
    dialogues = []
    for side in ("chosen", "rejected"):
        value = row.get(side)
        if isinstance(value, str):
            value = [{"role": "user", "content": prompt}, {"role": "assistant", "content": value}]
        dialogue, problem = messages(value)
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
        "conversation_id": text(row.get("prompt_id")),
        "prompt": chosen[:-1],
        "chosen": chosen[-1:],
        "rejected": rejected[-1:],
        **{name: _number(scores.get(name)) for name in ("score_chosen", "score_rejected")},
    }


def _rated(row: Mapping[str, Any]) -> dict[str, Any] | str:
    """Return the pair of a row with rated completions, or why there is none."""
    prompt, completions = text(row.get("instruction")), row.get("completions")
    if prompt is None or not isinstance(completions, Sequence):
        return "malformed_messages"
    rated = []
    for completion in completions:
        score = mean_rating(completion) if isinstance(completion, Mapping) else None
        response = completion.get("response") if score is not None else None
        if score is not None and isinstance(response, str):
            rated.append((score, response, text(completion.get("critique"))))
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


def mean_rating(completion: Mapping[str, Any]) -> float | None:
    """Return the mean of a completion's ratings ("1" to "5"; "N/A" does not count), or None without any."""
    annotations = completion.get("annotations")
    if not isinstance(annotations, Mapping):
        return None
    ratings = [
        float(rating)
        for aspect in annotations.values()
        if isinstance(aspect, Mapping) and (rating := str(aspect.get("Rating"))) in {"1", "2", "3", "4", "5"}
    ]
    return fmean(ratings) if ratings else None


def _number(value: Any) -> float | None:
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    except OverflowError:  # an integer of hundreds of digits
        return None
