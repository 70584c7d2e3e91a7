"""Turns texts into hashed n-grams and sets of words, in NumPy over whole batches.

The hashes are polynomials over folded code points. They are computed here and not by a library, so that a stored
classifier reads the same numbers everywhere: no library promises the same hashes from release to release.
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

_HASH_BASE: Final = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication modulo 2**64 can be undone
# Code points below this are folded. Each one above (emoji, rare Han) stays as it is and is a word of its own.
_FOLDED_UP_TO: Final = 0x10000
# Classes of characters: one that separates words, one that continues a word, one that is a word of its own, and one
# that is left out (apostrophes, combining marks).
_SEPARATOR, _LETTER, _ALONE, _SILENT = 0, 1, 2, 3
_LONGEST_WORD: Final = 40  # characters; the hash of a longer word covers these first ones and its length
_BLOCK_SIZE: Final = 1 << 14  # elements of an array that are worked on at a time, see `_iter_blocks`
# Code points of scripts that are written without spaces: each character is a word of its own.
_UNSPACED: Final = ((0x0E00, 0x0E7F), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
# Marks that tell something about the mood: each is a word of its own.
_MARKS_AS_WORDS: Final = frozenset("?!？！")


@dataclass(frozen=True)
class Ragged:
    """Lists of 64-bit keys, one list for each text: the list of text i is `values[starts[i]:starts[i + 1]]`."""

    starts: Ints  # (texts + 1,)
    values: U64

    @property
    def lengths(self) -> Ints:
        """Return how many keys each text has."""
        return np.diff(self.starts)

    def rows(self) -> Ints:
        """Return the number of the text that each value belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1), self.lengths)

    def take(self, texts: Ints) -> Ragged:
        """Return the lists of some texts; -1 gives an empty list."""
        lengths = np.where(texts >= 0, self.lengths[texts], 0) if len(self.lengths) else np.zeros_like(texts)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        first = np.where(texts >= 0, self.starts[texts], 0)
        at = np.arange(starts[-1]) - np.repeat(starts[:-1] - first, lengths)
        return Ragged(starts, self.values[at])

    def unique(self) -> Ragged:
        """Return each list's distinct keys, sorted; only the upper 40 bits of a key are kept."""
        return _unpack(_sort_distinct(_pack_lists(self)), len(self.starts) - 1)


@dataclass(frozen=True)
class Grams:
    """Hashed n-grams, all of one length, of many texts: those of text i are `hashes[starts[i]:ends[i]]`.

    The hashes between `ends[i]` and `starts[i + 1]` reach from one text into the next and belong to neither.
    """

    starts: Ints  # (texts,)
    ends: Ints  # (texts,)
    hashes: U64

    @property
    def lengths(self) -> Ints:
        """Return how many n-grams each text has."""
        return self.ends - self.starts

    def take(self, texts: Ints) -> Grams:
        """Return the n-grams of some texts, without the hashes that reach from one text into the next."""
        lengths = self.lengths[texts]
        ends = np.cumsum(lengths)
        starts = ends - lengths
        at = np.arange(lengths.sum()) + np.repeat(self.starts[texts] - starts, lengths)
        return Grams(starts, ends, self.hashes[at])

    def sum_weights(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the sum of each text's n-gram weights.

        Args:
            weights: weight of each hash, (hashes,).
        """
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
def _make_folding_table() -> npt.NDArray[np.uint32]:
    """Return for each code point four times the code point that it folds to, plus its class."""
    folded = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    kind = np.full(len(folded), _ALONE, np.uint32)
    kind[:_FOLDED_UP_TO] = _SEPARATOR
    for point in range(_FOLDED_UP_TO):
        if 0xD800 <= point < 0xE000:
            continue
        char = chr(point)
        base = unicodedata.normalize("NFKD", char.lower())[:1] or char
        category = unicodedata.category(base)[0]
        if base in _MARKS_AS_WORDS:
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


class FoldedTexts:
    """A batch of texts as folded code points.

    Case, accents, apostrophes and combining marks are ignored; all other punctuation separates words.

    Args:
        texts: the texts.
        characters: how many characters are read at each end of a text; a text of at most twice as many is read whole.
    """

    def __init__(self, texts: Sequence[str], characters: int) -> None:
        cut = [
            text if len(text) <= 2 * characters else text[:characters] + "\n" + text[-characters:]
            for text in texts
        ]
        # Each text, the last one included, is followed by "\n".
        points = np.frombuffer("\n".join([*cut, ""]).encode("utf-32-le", "replace"), np.uint32)
        read = np.empty_like(points)
        for part in _iter_blocks(len(points)):
            np.take(_make_folding_table(), points[part], out=read[part], mode="clip")
        kind = read.astype(np.uint8) & 3
        silent = np.flatnonzero(kind == _SILENT)
        starts = np.cumsum([0, *(len(text) + 1 for text in cut)])
        # Start of each text among the characters that are not silent, then the end of the last text.
        self._starts = starts - np.searchsorted(silent, starts)
        heard = kind != _SILENT if len(silent) else slice(None)
        self._chars, self._kind = read[heard] >> np.uint32(2), kind[heard]

    def hash_words(self) -> Ragged:
        """Return the hash of every word of each text, in reading order."""
        letter, alone = self._kind == _LETTER, self._kind == _ALONE
        begins, ends = letter.copy(), letter.copy()
        begins[1:] &= ~letter[:-1]
        ends[:-1] &= ~letter[1:]
        start, end = np.flatnonzero(begins | alone), np.flatnonzero(ends | alone) + 1
        return Ragged(np.searchsorted(start, self._starts), _hash_spans(self._chars, start, end))

    def hash_characters(self, shortest: int, longest: int) -> list[Grams]:
        """Return the hashes of all runs of `shortest` to `longest` characters, one element for each length.

        Runs may cross words, with one space between two words.
        """
        keep = self._kind != _SEPARATOR
        keep[1:] |= keep[:-1]  # keeps one separator after each word
        kept = np.flatnonzero(keep)
        return _hash_runs(self._chars[kept], np.searchsorted(kept, self._starts), shortest, longest)


def hash_word_runs(words: Ragged, longest: int) -> list[Grams]:
    """Return the hashes of all runs of one to `longest` words of each text, one element for each length."""
    return _hash_runs(words.values, words.starts, 1, longest)


def _hash_runs(keys: npt.NDArray[Any], starts: Ints, shortest: int, longest: int) -> list[Grams]:
    """Return the hashes of all runs of `shortest` to `longest` keys, one element for each length.

    Runs that reach from one text into the next are hashed too, but belong to no text.
    """
    found = [
        Grams(
            starts[:-1],
            np.maximum(starts[1:] - n + 1, starts[:-1]),
            np.empty(max(len(keys) - n + 1, 0), np.uint64),
        )
        for n in range(shortest, longest + 1)
    ]
    for part in _iter_blocks(len(keys)):
        piece = keys[part.start : part.stop + longest - 1].astype(np.uint64)
        running = piece[: part.stop - part.start]
        for n in range(1, min(longest, len(piece)) + 1):
            if n > 1:
                running = running[: len(piece) - n + 1] * _HASH_BASE
                running += piece[n - 1 :][: len(running)]
            if n >= shortest:
                found[n - shortest].hashes[part][: len(running)] = _mix_bits(running + np.uint64(n))
    return found


def count_shared(left: Ragged, right: Ragged) -> Ints:
    """Return how many keys each pair of lists shares, (texts,); the keys of a list must be distinct."""
    both = np.concatenate([_pack_lists(left), _pack_lists(right)])
    both.sort()
    twice = both[1:][both[1:] == both[:-1]]
    return np.bincount((twice >> np.uint64(40)).astype(np.int64), minlength=len(left.starts) - 1)


def remove_known(left: Ragged, right: Ragged) -> Ragged:
    """Return the left lists in their order, without the keys that are in the right list of the same text.

    Keys are compared by their upper 40 bits.
    """
    keyed = _pack_lists(left)
    known = _sort_distinct(_pack_lists(right))
    at = np.searchsorted(known, keyed)
    new = np.ones(len(keyed), np.bool_)
    inside = at < len(known)
    new[inside] = known[at[inside]] != keyed[inside]
    return Ragged(_find_starts(left.rows()[new], len(left.starts) - 1), left.values[new])


def count_common_ends(left: Ragged, right: Ragged) -> tuple[Ints, Ints]:
    """Return how many keys each pair of lists has in common at its beginning, and how many at its end."""
    shorter = np.minimum(left.lengths, right.lengths)
    offsets = np.concatenate([[0], np.cumsum(shorter)])
    at = np.arange(offsets[-1])

    def read_forward(side: Ragged) -> U64:
        places: Ints = np.repeat(side.starts[:-1] - offsets[:-1], shorter) + at
        return side.values[places]

    def read_backward(side: Ragged) -> U64:
        places: Ints = np.repeat(side.starts[1:] - 1 + offsets[:-1], shorter) - at
        return side.values[places]

    common_head = _count_streaks(read_forward(left) == read_forward(right), offsets)
    common_tail = _count_streaks(read_backward(left) == read_backward(right), offsets)
    return common_head, common_tail


def _count_streaks(equal: npt.NDArray[np.bool_], offsets: Ints) -> Ints:
    """Return for each row how many flags are set before the first one that is not set."""
    broken = np.append(np.flatnonzero(~equal), len(equal))
    first: Ints = broken[np.searchsorted(broken, offsets[:-1])]
    return np.minimum(first, offsets[1:]) - offsets[:-1]


def _hash_spans(chars: npt.NDArray[np.uint32], start: Ints, end: Ints) -> U64:
    """Return the polynomial hash of each span of characters; the spans are in order and do not overlap.

    In running sums over a block, each character weighs less than the one before by a factor of the base. The hash of a
    span is the difference of two running sums, multiplied by the power of the base that belongs to the span's end.
    Arithmetic modulo 2**64 makes this exact, since the odd base has an inverse.
    """
    values = np.empty(len(start), np.uint64)
    cut = np.minimum(end, start + _LONGEST_WORD)
    powers, inverse = _compute_powers()
    for part in _iter_blocks(len(chars)):
        spans = slice(*np.searchsorted(start, [part.start, part.stop]))
        piece = chars[part.start : part.stop + _LONGEST_WORD]
        sums = np.zeros(len(piece) + 1, np.uint64)
        np.cumsum(piece * inverse[: len(piece)], out=sums[1:])
        first, after = start[spans] - part.start, cut[spans] - part.start
        values[spans] = (sums[after] - sums[first]) * powers[after - 1]
    return _mix_bits(values + (end - start).astype(np.uint64))


@cache
def _compute_powers() -> tuple[U64, U64]:
    """Return the powers of the base and of its inverse modulo 2**64, enough for one block and one word."""
    bases = np.array([_HASH_BASE, pow(int(_HASH_BASE), -1, 1 << 64)], np.uint64)
    powers = np.repeat(bases[:, None], _BLOCK_SIZE + _LONGEST_WORD, axis=1)
    powers[:, 0] = 1
    powers = np.cumprod(powers, axis=1)
    return powers[0], powers[1]


def _iter_blocks(length: int) -> Iterator[slice]:
    """Yield consecutive slices of an array, each small enough to stay in the processor's cache."""
    for first in range(0, length, _BLOCK_SIZE):
        yield slice(first, min(first + _BLOCK_SIZE, length))


def _sort_distinct(values: U64) -> U64:
    """Return the distinct values, sorted; twice as fast as `np.unique`, which hashes the values first."""
    ordered = np.sort(values)
    keep = np.ones(len(ordered), np.bool_)
    keep[1:] = ordered[1:] != ordered[:-1]
    return ordered[keep]


def _mix_bits(values: U64) -> U64:
    """Spread the bits of the values in place (the finaliser of SplitMix64), and return the values."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _pack_lists(lists: Ragged) -> U64:
    """Return row and value of each key in one number: 24 bits for the row, the upper 40 bits of the value."""
    return _pack(lists.rows(), lists.values)


def _pack(rows: Ints, values: U64) -> U64:
    return (rows.astype(np.uint64) << np.uint64(40)) | (values >> np.uint64(24))


def _unpack(keyed: U64, count: int) -> Ragged:
    """Return the lists of `count` rows from sorted numbers that `_pack` has made."""
    rows = (keyed >> np.uint64(40)).astype(np.int64)
    return Ragged(_find_starts(rows, count), keyed << np.uint64(24))


def _find_starts(rows: Ints, count: int) -> Ints:
    """Return where each of `count` rows begins among values that are sorted by row, then where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64)
