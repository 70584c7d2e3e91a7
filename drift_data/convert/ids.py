"""Gives every row a conversation id that is unique in its table and the same in every run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from drift_data.convert.clean import KeySet


class UniqueIds:
    """Gives each row an id: its own, or one made from its content; of equal ids the second gets "-2", and so on.

    Every raw row gets an id, whether it is kept or not, so that other cleaning options do not change an id. If the key
    of a table is id and turn, two ids are equal only when the turns are equal, too.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._taken = KeySet()
        self._repeats: dict[str, int] = {}

    def assign(
        self, ids: Sequence[str | None], content_keys: Sequence[int], turns: Sequence[int] | None = None
    ) -> tuple[list[str], bool]:
        """Return an id for every row, and whether any differs from the id the source gave.

        Args:
            ids: the source's ids; None or "" where a row has none.
            content_keys: a hash of each row's content, used for rows without an id.
            turns: the turn of each row, in tables whose key has a turn.
        """
        found = [own or f"{self._source}-{key:016x}" for own, key in zip(ids, content_keys, strict=True)]
        changed = not all(ids)
        ends = [""] * len(found) if turns is None else [f"\0{turn}" for turn in turns]
        keys = [_hash_name(name + end) for name, end in zip(found, ends, strict=True)]
        for at in np.flatnonzero(~self._taken.add(np.array(keys, np.uint64))).tolist():
            found[at] = self._make_next(found[at], ends[at])
            changed = True
        return found, changed

    def _make_next(self, name: str, end: str) -> str:
        """Return the name with the first number that is not taken; `end` is the rest of the row's key."""
        number = self._repeats.get(name, 1)
        while True:
            number += 1
            candidate = f"{name}-{number}"
            if self._taken.add(np.array([_hash_name(candidate + end)], np.uint64))[0]:
                self._repeats[name] = number
                return candidate


def _hash_name(name: str) -> int:
    number: int = xxhash.xxh3_64_intdigest(name.encode())
    return number
