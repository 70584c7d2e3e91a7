"""Conversation ids, unique in a table and the same in every run. Knows nothing of what an id stands for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from drift_data.convert.clean import KeySet


class Ids:
    """Gives each row an id: its own, or one made from its content; the second of equals gets "-2", and so on.

    Every raw row takes its turn, kept or not, so that other cleaning options do not change an id. Where the key
    of a table is id and turn, equals are rows in which both are the same.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._taken = KeySet()
        self._repeats: dict[str, int] = {}

    def assign(
        self, ids: Sequence[str | None], content_keys: Sequence[int], turns: Sequence[int] | None = None
    ) -> tuple[list[str], bool]:
        """Return an id for every row, and whether any differs from the one it had.

        Args:
            ids: what the source says; null or "" where it has none.
            content_keys: a hash of each row's content, for the rows without an id.
            turns: the rest of each row's key, in tables that have it.
        """
        found = [own or f"{self._source}-{key:016x}" for own, key in zip(ids, content_keys, strict=True)]
        changed = not all(ids)
        ends = [""] * len(found) if turns is None else [f"\0{turn}" for turn in turns]
        keys = [_hash(name + end) for name, end in zip(found, ends, strict=True)]
        for at in np.flatnonzero(~self._taken.add(np.array(keys, np.uint64))).tolist():
            found[at] = self._next(found[at], ends[at])
            changed = True
        return found, changed

    def _next(self, name: str, end: str) -> str:
        number = self._repeats.get(name, 1)
        while True:
            number += 1
            candidate = f"{name}-{number}"
            if self._taken.add(np.array([_hash(candidate + end)], np.uint64))[0]:
                self._repeats[name] = number
                return candidate


def _hash(name: str) -> int:
    number: int = xxhash.xxh3_64_intdigest(name.encode())
    return number
