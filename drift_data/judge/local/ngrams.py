"""Texts as hashed n-grams and sets of words, in NumPy over whole batches. Knows no conversation and no label.

The hashes are polynomials over folded code points, written out here so that a stored model reads the same numbers
everywhere: no library's hash function keeps that promise from release to release.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_BASE: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing
_FOLDED_UP_TO: Final = 0x10000  # code points beyond (emoji, rare Han) are words of one character as they are
_SEPARATOR, _LETTER, _ALONE, _SILENT = 0, 1, 2, 3
_LONGEST_WORD: Final = 40  # characters; a longer one is known by its first ones and its length
_BLOCK: Final = 1 << 14
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
    """Hashed n-grams of one length of many texts: those of text i are `hashes[starts[i]:ends[i]]`.

    What lies between reaches from one text into the next and is none of them.
    """

    starts: Ints  # (texts,)
    ends: Ints
    hashes: U64

    @property
    def lengths(self) -> Ints:
        """Return how many n-grams each text has."""
        return self.ends - self.starts

    def take(self, texts: Ints) -> Grams:
        """Return the n-grams of some texts, with nothing between."""
        lengths = self.lengths[texts]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        at = np.arange(lengths.sum()) + np.repeat(self.starts[texts] - starts, lengths)
        return Grams(starts, ends, self.hashes[at])

    def sums(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return for each text the sum of its n-grams' weights, of which there is one a hash."""
        found = np.zeros(len(self.starts))
        some = self.ends > self.starts
        if some.any():
            bounds = np.column_stack([self.starts[some], self.ends[some]]).ravel()
            found[some] = np.add.reduceat(np.append(weights, 0.0), bounds)[::2]
        return found


def join_grams(parts: Sequence[Grams]) -> Grams:
    """Return the n-grams of all texts of the parts, in their order."""
    before = np.cumsum([0, *(len(part.hashes) for part in parts)])[:-1]
    return Grams(
        np.concatenate([part.starts + first for part, first in zip(parts, before, strict=True)]),
        np.concatenate([part.ends + first for part, first in zip(parts, before, strict=True)]),
        np.concatenate([part.hashes for part in parts]),
    )


@cache
def _table() -> npt.NDArray[np.uint32]:
    """Return for each code point what it folds to, times four, and its class."""
    folded = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    kind = np.full(len(folded), _ALONE, np.uint32)
    kind[:_FOLDED_UP_TO] = _SEPARATOR
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
    folded[kind == _SEPARATOR] = ord(" ")
    kind[[0x27, 0x2019, *range(0x300, 0x370)]] = _SILENT
    return folded << np.uint32(2) | kind


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
        # Each text has a "\n" after it, so the last is like any other.
        points = np.frombuffer("\n".join([*cut, ""]).encode("utf-32-le", "replace"), np.uint32)
        read = np.empty_like(points)
        for part in _blocks(len(points)):
            np.take(_table(), points[part], out=read[part], mode="clip")
        kind = read.astype(np.uint8) & 3
        silent = np.flatnonzero(kind == _SILENT)
        starts = np.cumsum([0, *(len(text) + 1 for text in cut)])
        self._starts = starts - np.searchsorted(silent, starts)  # of each text, and the end of the last
        heard = kind != _SILENT if len(silent) else slice(None)
        self._chars, self._kind = read[heard] >> np.uint32(2), kind[heard]

    def words(self) -> Ragged:
        """Return the hash of every word, in reading order."""
        letter, alone = self._kind == _LETTER, self._kind == _ALONE
        begins, ends = letter.copy(), letter.copy()
        begins[1:] &= ~letter[:-1]
        ends[:-1] &= ~letter[1:]
        start, end = np.flatnonzero(begins | alone), np.flatnonzero(ends | alone) + 1
        return Ragged(np.searchsorted(start, self._starts), _spans(self._chars, start, end))

    def characters(self, shortest: int, longest: int) -> list[Grams]:
        """Return all runs of characters within and across words, one space between words: one item a length."""
        keep = self._kind != _SEPARATOR
        keep[1:] |= keep[:-1]  # one separator after each word
        kept = np.flatnonzero(keep)
        return _runs(self._chars[kept], np.searchsorted(kept, self._starts), shortest, longest)


def runs(words: Ragged, longest: int) -> list[Grams]:
    """Return all runs of one to `longest` words of each text: one item a length."""
    return _runs(words.values, words.starts, 1, longest)


def _runs(keys: npt.NDArray[Any], starts: Ints, shortest: int, longest: int) -> list[Grams]:
    """Return the hashes of all runs of keys, those over the bounds of two texts too, which none has."""
    found = [
        Grams(
            starts[:-1],
            np.maximum(starts[1:] - n + 1, starts[:-1]),
            np.empty(max(len(keys) - n + 1, 0), np.uint64),
        )
        for n in range(shortest, longest + 1)
    ]
    for part in _blocks(len(keys)):
        piece = keys[part.start : part.stop + longest - 1].astype(np.uint64)
        running = piece[: part.stop - part.start]
        for n in range(1, min(longest, len(piece)) + 1):
            if n > 1:
                running = running[: len(piece) - n + 1] * _BASE
                running += piece[n - 1 :][: len(running)]
            if n >= shortest:
                found[n - shortest].hashes[part][: len(running)] = _mixed(running + np.uint64(n))
    return found


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
    at = np.arange(offsets[-1])

    def ahead(side: Ragged) -> U64:
        places: Ints = np.repeat(side.starts[:-1] - offsets[:-1], shorter) + at
        return side.values[places]

    def astern(side: Ragged) -> U64:
        places: Ints = np.repeat(side.starts[1:] - 1 + offsets[:-1], shorter) - at
        return side.values[places]

    return _streak(ahead(left) == ahead(right), offsets), _streak(astern(left) == astern(right), offsets)


def _streak(equal: npt.NDArray[np.bool_], offsets: Ints) -> Ints:
    """Return for each row how many flags are set before the first that is not."""
    broken = np.append(np.flatnonzero(~equal), len(equal))
    first: Ints = broken[np.searchsorted(broken, offsets[:-1])]
    return np.minimum(first, offsets[1:]) - offsets[:-1]


def _spans(chars: npt.NDArray[np.uint32], start: Ints, end: Ints) -> U64:
    """Return the polynomial hash of each span of characters; spans are in order and apart.

    Each is a difference of running sums: with a character's weight falling by the base from one to the next, and the
    whole span raised by the power of its end. Arithmetic modulo 2**64 makes that exact, as the base is odd.
    """
    values = np.empty(len(start), np.uint64)
    cut = np.minimum(end, start + _LONGEST_WORD)
    powers, inverse = _powers()
    for part in _blocks(len(chars)):
        spans = slice(*np.searchsorted(start, [part.start, part.stop]))
        piece = chars[part.start : part.stop + _LONGEST_WORD]
        sums = np.zeros(len(piece) + 1, np.uint64)
        np.cumsum(piece * inverse[: len(piece)], out=sums[1:])
        first, after = start[spans] - part.start, cut[spans] - part.start
        values[spans] = (sums[after] - sums[first]) * powers[after - 1]
    return _mixed(values + (end - start).astype(np.uint64))


@cache
def _powers() -> tuple[U64, U64]:
    """Return the powers of the base, and of its inverse modulo 2**64, as many as a block and a word are long."""
    bases = np.array([_BASE, pow(int(_BASE), -1, 1 << 64)], np.uint64)
    powers = np.repeat(bases[:, None], _BLOCK + _LONGEST_WORD, axis=1)
    powers[:, 0] = 1
    powers = np.cumprod(powers, axis=1)
    return powers[0], powers[1]


def _blocks(length: int) -> Iterator[slice]:
    """Yield pieces of an array that stay in the processor's cache while they are worked on."""
    for first in range(0, length, _BLOCK):
        yield slice(first, min(first + _BLOCK, length))


def _distinct(values: U64) -> U64:
    """Return the distinct values, sorted: twice as fast as `np.unique`, which hashes first."""
    ordered = np.sort(values)
    keep = np.ones(len(ordered), np.bool_)
    keep[1:] = ordered[1:] != ordered[:-1]
    return ordered[keep]


def _mixed(values: U64) -> U64:
    """Return well-spread bits (the finaliser of SplitMix64), in the place of the values."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _keyed(lists: Ragged) -> U64:
    """Return row and value in one number: 24 bits of the row, 40 of the value."""
    return _key(lists.rows(), lists.values)


def _key(rows: Ints, values: U64) -> U64:
    return (rows.astype(np.uint64) << np.uint64(40)) | (values >> np.uint64(24))


def _split(keyed: U64, count: int) -> Ragged:
    rows = (keyed >> np.uint64(40)).astype(np.int64)
    return Ragged(_starts(rows, count), keyed << np.uint64(24))


def _starts(rows: Ints, count: int) -> Ints:
    """Return where each row begins in values whose rows are sorted."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64)
