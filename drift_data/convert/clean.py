"""Decides which well-formed conversations are kept, by language, toxicity, evaluation prompts and duplicates.

Every conversation is seen once, in order. Eight bytes of each are kept in memory to recognise duplicates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from drift_data.chats.turns import find_message_starts
from drift_data.convert.near_duplicates import NearDuplicates
from drift_data.convert.options import CleanOptions
from drift_data.workspace import UserError

Flags = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]

_PROMPT_KEYS: Final = ("conversation_input", "messages", "prompt", "instruction", "question", "text")
_HASH_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, which spreads small numbers


class Cleaner:
    """Applies the cleaning options to batches of well-formed conversations, in order."""

    def __init__(self, options: CleanOptions) -> None:
        self.options = options
        names = options.languages
        self._languages = None if names is None else pa.array([name.lower() for name in names], pa.string())
        self._excluded = (
            read_excluded_prompts(Path(options.exclude_prompts)) if options.exclude_prompts else None
        )
        self._seen = KeySet() if options.deduplicate != "off" else None
        self._near = NearDuplicates(options.near_threshold) if options.deduplicate == "near" else None

    def find_reasons(self, table: pa.RecordBatch, good: Flags, keys: Keys) -> dict[str, Flags]:
        """Return reason → the rows that are dropped for it; each row has at most one reason.

        Args:
            table: has `messages`, and may have `language` and `toxic`.
            good: which rows to look at, (rows,); all other rows are neither judged nor remembered.
            keys: a hash of each row, (rows,); rows with equal hashes are duplicates.
        """
        good = good.copy()
        found: dict[str, Flags] = {}

        def leave(reason: str, rows: Flags) -> None:
            rows = rows & good
            if rows.any():
                found[reason] = rows
                good[rows] = False

        if self._languages is not None and "language" in table.schema.names:
            named = pc.is_in(pc.utf8_lower(table["language"]), self._languages)
            leave("language", ~_to_flags(pc.or_kleene(named, table["language"].is_null())))
        if self.options.drop_toxic and "toxic" in table.schema.names:
            leave("toxic", _to_flags(table["toxic"].fill_null(False)))
        if self._excluded is not None:
            leave("evaluation_prompt", self._begins_with_excluded(table["messages"], good))
        if self._seen is not None:
            at = np.flatnonzero(good)
            repeated = np.zeros(len(good), dtype=np.bool_)
            repeated[at] = ~self._seen.add(keys[at])
            leave("duplicate", repeated)
        if self._near is not None:
            leave("near_duplicate", self._near.add(table["messages"], good))
        return found

    def _begins_with_excluded(self, messages: pa.ListArray, good: Flags) -> Flags:
        """Return which of the good rows have an evaluation prompt as their first user message."""
        starts, values = find_message_starts(messages)[:-1], messages.flatten()
        rows = np.zeros(len(good), dtype=np.bool_)
        at = starts[good]
        if len(at) == 0:
            return rows
        system = _to_flags(pc.equal(values.field("role").take(pa.array(at)), "system"))
        prompts = values.field("content").take(pa.array(at + system)).to_pylist()
        rows[good] = [normalize_prompt(prompt) in (self._excluded or ()) for prompt in prompts]
        return rows


class KeySet:
    """A set of 64-bit keys in sorted arrays: it takes eight bytes a key, a Python set about a hundred."""

    def __init__(self) -> None:
        self._runs: list[Keys] = []  # sorted arrays, each at least twice as long as the next

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, keys: Keys) -> Flags:
        """Add keys, and return which of them are new; of equal keys in one call only the first is new."""
        unique, first = np.unique(keys, return_index=True)
        known = np.zeros(len(unique), dtype=np.bool_)
        for run in self._runs:
            at = np.searchsorted(run, unique)
            at[at == len(run)] = 0
            known |= run[at] == unique
        fresh = np.zeros(len(keys), dtype=np.bool_)
        fresh[first[~known]] = True
        if not known.all():
            self._runs.append(unique[~known])
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))
        return fresh


def hash_conversations(messages: pa.ListArray) -> Keys:
    """Return a hash of each conversation's roles and contents, (conversations,).

    The hashes are the same in every run. A null content counts as an empty one.
    """
    starts, values = find_message_starts(messages), messages.flatten()
    contents: pa.StringArray = values.field("content")
    roles = values.field("role")
    size = pc.binary_length(contents).fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint64)
    user = pc.equal(roles, "user").fill_null(False).to_numpy(zero_copy_only=False)
    # The seed of a conversation's hash is a sum of products modulo 2^64. It says where each message begins and who speaks.
    place = np.arange(len(size), dtype=np.uint64) - np.repeat(starts[:-1].astype(np.uint64), np.diff(starts))
    shape = (
        (size * np.uint64(2) + user + np.uint64(1)) * (place * np.uint64(2) + np.uint64(1)) * _HASH_MULTIPLIER
    )
    before = np.concatenate([np.zeros(1, np.uint64), np.cumsum(shape, dtype=np.uint64)])
    seeds = (before[starts[1:]] - before[starts[:-1]]).tolist()
    data, ends = _get_bytes(contents)
    bounds = ends[starts].tolist()
    hashed = xxhash.xxh3_64_intdigest
    keys = [hashed(data[bounds[i] : bounds[i + 1]], seeds[i]) for i in range(len(messages))]
    return np.array(keys, dtype=np.uint64)


def _get_bytes(strings: pa.StringArray) -> tuple[memoryview, npt.NDArray[np.int64]]:
    """Return the bytes of a column of n strings, and the n + 1 positions in them between which each string lies."""
    _, offsets, data = strings.buffers()
    if offsets is None or data is None:
        return memoryview(b""), np.zeros(len(strings) + 1, dtype=np.int64)
    ends = np.frombuffer(offsets, dtype=np.int32, count=strings.offset + len(strings) + 1)
    return memoryview(data), ends[strings.offset :].astype(np.int64)


def _to_flags(column: pa.BooleanArray) -> Flags:
    """Return a boolean column as a NumPy array."""
    flags: Flags = column.to_numpy(zero_copy_only=False).astype(np.bool_)
    return flags


def normalize_prompt(text: str) -> str:
    """Return a prompt in the form in which it is compared with evaluation prompts: case and white space do not count."""
    return " ".join(text.casefold().split())


def read_excluded_prompts(path: Path) -> frozenset[str]:
    """Read evaluation prompts.

    Args:
        path: text with one prompt a line, or JSON or JSON Lines whose rows are strings or objects with the
            prompt under `conversation_input`, `messages` (the first user message counts), `prompt`,
            `instruction`, `question` or `text`.

    Raises:
        UserError: there is no such file, or a row without a prompt.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"exclude_prompts: {path} cannot be read: {error}.") from error
    lines = text.split("\n")  # `splitlines` would also cut at U+2028 and U+0085, which a prompt may contain
    try:
        if path.suffix == ".json":
            rows = json.loads(text)
            rows = rows if isinstance(rows, list) else [rows]
        elif path.suffix in (".jsonl", ".ndjson"):
            rows = [json.loads(line) for line in lines if line.strip()]
        else:
            rows = [line for line in lines if line.strip()]
    except ValueError as error:
        raise UserError(f"exclude_prompts: {path} is no {path.suffix[1:]}: {error}.") from error
    return frozenset(normalize_prompt(prompt) for prompt in _iter_prompts(rows, path))


def _iter_prompts(rows: list[Any], path: Path) -> Iterator[str]:
    for number, row in enumerate(rows):
        value = row
        if isinstance(row, dict):
            value = next((row[key] for key in _PROMPT_KEYS if row.get(key)), None)
        if isinstance(value, list):
            users = (m.get("content") for m in value if isinstance(m, dict) and m.get("role") == "user")
            value = next(users, None)
        if not isinstance(value, str):
            keys = f"an object with {', '.join(row)}" if isinstance(row, dict) else type(row).__name__
            raise UserError(
                f"exclude_prompts: row {number} of {path} has no prompt: {keys}. "
                f"Expected text, or an object with one of {', '.join(_PROMPT_KEYS)}."
            )
        yield value
