"""Texts as hashed n-grams and sets of words, in NumPy over whole batches. Knows no conversation and no label.

The hashes are polynomials over folded code points, written out here so that a stored model reads the same numbers
everywhere: no library's hash function keeps that promise from release to release.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_BASE: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing
_FOLDED_UP_TO: Final = 0x10000  # code points beyond (emoji, rare Han) are words of one character as they are
_SEPARATOR, _LETTER, _ALONE = 0, 1, 2
# Scripts written without spaces: each character is a word of its own.
_UNSPACED: Final = ((0x0E00, 0x0E7F), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
_MARKS_KEPT: Final = frozenset("?!？！")  # they say something: words of one character


@dataclass(frozen=True)
class Ragged:
    """Lists of 64-bit keys, one list a text: `values[starts[i]:starts[i + 1]]`."""

    starts: Ints  # (texts + 1,)
    values: U64

    @property
    def lengths(self) -> Ints:
        """Return how many keys each text has."""
        return np.diff(self.starts)

    def rows(self) -> Ints:
        """Return for each value the text it belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1), self.lengths)

    def take(self, texts: Ints) -> Ragged:
        """Return the lists of some texts; -1 stands for an empty list."""
        lengths = np.where(texts >= 0, self.lengths[texts], 0) if len(self.lengths) else np.zeros_like(texts)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        first = np.where(texts >= 0, self.starts[texts], 0)
        at = np.arange(starts[-1]) - np.repeat(starts[:-1] - first, lengths)
        return Ragged(starts, self.values[at])

    def unique(self) -> Ragged:
        """Return each list's distinct keys (of their upper 40 bits), sorted."""
        return _split(_distinct(_keyed(self)), len(self.starts) - 1)


@dataclass(frozen=True)
class Grams:
    """Hashed n-grams of many texts, in no order: the text of each, and its 64-bit hash."""

    rows: Ints
    hashes: U64


@cache
def _tables() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """Return for each code point what it folds to and its class."""
    folded = np.arange(_FOLDED_UP_TO, dtype=np.uint32)
    kind = np.zeros(_FOLDED_UP_TO, np.uint8)
    for point in range(_FOLDED_UP_TO):
        if 0xD800 <= point < 0xE000:
            continue
        char = chr(point)
        base = unicodedata.normalize("NFKD", char.lower())[:1] or char
        category = unicodedata.category(base)[0]
        if base in _MARKS_KEPT:
            folded[point], kind[point] = ord(base), _ALONE
        elif category in "LN":
            folded[point], kind[point] = ord(base), _LETTER
        elif unicodedata.category(char) == "So":
            kind[point] = _ALONE
    for low, high in _UNSPACED:
        letters = np.arange(low, high + 1)
        kind[letters[kind[letters] == _LETTER]] = _ALONE
    return folded, kind


class Texts:
    """A batch of texts as folded code points.

    Case, accents, apostrophes and combining marks do not count; all other punctuation separates words.
    """

    def __init__(self, texts: Sequence[str], characters: int) -> None:
        """Read texts, of each the first and last `characters`."""
        cut = [
            text if len(text) <= 2 * characters else text[:characters] + "\n" + text[-characters:]
            for text in texts
        ]
        points = np.frombuffer("".join(text + "\n" for text in cut).encode("utf-32-le", "replace"), np.uint32)
        lengths = np.array([len(text) for text in cut], np.int64)
        text = np.repeat(np.arange(len(cut)), lengths + 1)  # each with the "\n" after it
        folded, kinds = _tables()
        small = np.minimum(points, _FOLDED_UP_TO - 1)
        kind = np.where(points < _FOLDED_UP_TO, kinds[small], _ALONE)
        chars = np.where(points < _FOLDED_UP_TO, folded[small], points)
        silent = (points == 0x27) | (points == 0x2019) | ((points >= 0x300) & (points < 0x370))
        self.count = len(cut)
        self.lengths = np.array([len(text) for text in texts], np.int64)
        self._chars, self._kind, self._text = chars[~silent], kind[~silent], text[~silent]

    def words(self) -> Ragged:
        """Return the hash of every word, in reading order."""
        letter = self._kind != _SEPARATOR
        alone = self._kind == _ALONE
        before = np.concatenate([[False], letter[:-1] & ~alone[:-1]])
        begins = letter & (alone | ~before)
        start = np.flatnonzero(begins)
        after = np.concatenate([~letter[1:] | alone[1:], [True]]) if len(letter) else letter
        end = np.flatnonzero(letter & (alone | after)) + 1
        values = _spans(self._chars.astype(np.uint64), start, end)
        return Ragged(_starts(self._text[start], self.count), values)

    def characters(self, shortest: int, longest: int) -> Grams:
        """Return all runs of characters within and across words, one space between words."""
        letter = self._kind != _SEPARATOR
        keep = letter | np.concatenate([[False], letter[:-1]])  # one separator after each word
        chars = np.where(letter, self._chars, 0x20)[keep].astype(np.uint64)
        text = self._text[keep]
        rows, values = [], []
        running = np.zeros_like(chars)
        for n in range(1, longest + 1):
            size = len(chars) - n + 1
            if size <= 0:
                break
            running = running[:size] * _BASE + chars[n - 1 :]
            if n >= shortest:
                inside = text[:size] == text[n - 1 :]
                rows.append(text[:size][inside])
                values.append(_mixed(running[inside] + np.uint64(n)))
        return Grams(_joined(rows), _joined(values).astype(np.uint64))


def runs(words: Ragged, longest: int) -> Grams:
    """Return all runs of one to `longest` words of each text."""
    found = [_runs(words, n) for n in range(1, longest + 1)]
    return Grams(_joined([rows for rows, _ in found]), _joined([values for _, values in found]))


def threes(words: Ragged) -> Ragged:
    """Return the distinct runs of three words of each text; all of a shorter text is one run."""
    rows, values = _runs(words, 3)
    short = np.flatnonzero((words.lengths > 0) & (words.lengths < 3))
    first, last = words.values[words.starts[short]], words.values[words.starts[short + 1] - 1]
    keyed = np.concatenate([_key(rows, values), _key(short, _mixed(first + last * _BASE))])
    return _split(_distinct(keyed), len(words.starts) - 1)


def _runs(words: Ragged, n: int) -> tuple[Ints, U64]:
    """Return the row and the hash of each run of n words."""
    text, size = words.rows(), max(len(words.values) - n + 1, 0)
    running = np.zeros(size, np.uint64)
    for at in range(n):
        running = running * _BASE + words.values[at : at + size]
    inside = text[:size] == text[n - 1 :][:size]
    return text[:size][inside], _mixed(running[inside] + np.uint64(n))


def overlap(left: Ragged, right: Ragged) -> Ints:
    """Return how many keys two lists of distinct keys share, row by row."""
    both = np.concatenate([_keyed(left), _keyed(right)])
    both.sort()
    twice = both[1:][both[1:] == both[:-1]]
    return np.bincount((twice >> np.uint64(40)).astype(np.int64), minlength=len(left.starts) - 1)


def without(left: Ragged, right: Ragged) -> Ragged:
    """Return the left lists, in their order, without keys that are in the right lists (upper 40 bits)."""
    keyed = _keyed(left)
    known = _distinct(_keyed(right))
    at = np.searchsorted(known, keyed)
    new = np.ones(len(keyed), np.bool_)
    inside = at < len(known)
    new[inside] = known[at[inside]] != keyed[inside]
    return Ragged(_starts(left.rows()[new], len(left.starts) - 1), left.values[new])


def common_ends(left: Ragged, right: Ragged) -> tuple[Ints, Ints]:
    """Return how many words two lists have in common at their beginnings, and at their ends."""
    shorter = np.minimum(left.lengths, right.lengths)
    offsets = np.concatenate([[0], np.cumsum(shorter)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], shorter)
    row = np.repeat(np.arange(len(shorter)), shorter)
    ahead = left.values[left.starts[row] + within] == right.values[right.starts[row] + within]
    astern = (
        left.values[left.starts[row + 1] - 1 - within] == right.values[right.starts[row + 1] - 1 - within]
    )
    return _streak(ahead, within, offsets, shorter), _streak(astern, within, offsets, shorter)


def _streak(equal: npt.NDArray[np.bool_], within: Ints, offsets: Ints, lengths: Ints) -> Ints:
    """Return for each row how many flags are set before the first that is not."""
    first = np.where(equal, np.iinfo(np.int64).max, within)
    found = lengths.copy()
    some = lengths > 0
    if some.any():
        found[some] = np.minimum(np.minimum.reduceat(first, offsets[:-1][some]), lengths[some])
    return found


def _spans(chars: U64, start: Ints, end: Ints) -> U64:
    """Return the polynomial hash of each span of characters."""
    lengths = end - start
    longest = int(lengths.max(initial=0))
    values = np.zeros(len(start), np.uint64)
    open_ = np.arange(len(start))
    for at in range(min(longest, 40)):  # a word of more characters is known by its first 40
        open_ = open_[lengths[open_] > at]
        values[open_] = values[open_] * _BASE + chars[start[open_] + at]
    return _mixed(values + lengths.astype(np.uint64))


def _distinct(values: U64) -> U64:
    """Return the distinct values, sorted: twice as fast as `np.unique`, which hashes first."""
    ordered = np.sort(values)
    keep = np.ones(len(ordered), np.bool_)
    keep[1:] = ordered[1:] != ordered[:-1]
    return ordered[keep]


def _mixed(values: U64) -> U64:
    """Return well-spread bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _keyed(lists: Ragged) -> U64:
    """Return row and value in one number: 24 bits of the row, 40 of the value."""
    return _key(lists.rows(), lists.values)


def _key(rows: Ints, values: U64) -> U64:
    return (rows.astype(np.uint64) << np.uint64(40)) | (values >> np.uint64(24))


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _split(keyed: U64, count: int) -> Ragged:
    rows = (keyed >> np.uint64(40)).astype(np.int64)
    return Ragged(_starts(rows, count), keyed << np.uint64(24))


def _starts(rows: Ints, count: int) -> Ints:
    """Return where each row begins in values whose rows are sorted."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64)
