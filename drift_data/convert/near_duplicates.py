"""Finds near-duplicate conversations by MinHash over word 3-grams; roles do not count.

In scripts without spaces between words, each letter counts as a word. A sketch of about two kilobytes is kept of each
conversation, so memory grows with the number of conversations.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rensa import RMinHashDeduplicator

from drift_data.chats.turns import find_message_starts

PERMUTATIONS = 128
_SEED = 42
# Limits on the conversations whose words are Python objects at one time: their number, and their bytes.
_CONVERSATIONS_AT_ONCE, _BYTES_AT_ONCE = 500, 2 << 20
# Scripts written without spaces: Han, kana, Thai, Lao, Khmer, Myanmar.
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"


class NearDuplicates:
    """Finds conversations whose words nearly repeat those of an earlier one that was kept."""

    def __init__(self, threshold: float) -> None:
        self._sketches = RMinHashDeduplicator(threshold, PERMUTATIONS, use_lsh=True, seed=_SEED)
        self._count = 0

    def add(self, messages: pa.ListArray, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the flagged rows nearly repeat an earlier one, (rows,); all other flagged rows are remembered."""
        repeats = np.zeros(len(rows), dtype=np.bool_)
        flagged = np.flatnonzero(rows)
        for at in np.split(flagged, _find_cuts(messages, flagged)):
            shingles, bounds = _make_shingles(messages.take(pa.array(at)))
            entries = [
                (str(self._count + i), shingles[bounds[i] : bounds[i + 1]].to_pylist())
                for i in range(len(at))
            ]
            self._count += len(at)
            repeats[at] = ~np.array(self._sketches.add_pairs(entries), dtype=np.bool_)
        return repeats


def _find_cuts(messages: pa.ListArray, rows: npt.NDArray[np.int64]) -> list[int]:
    """Return where to cut a list of rows so that each part stays within the limits; a conversation is never cut."""
    lengths = (
        pc.binary_length(messages.flatten().field("content")).fill_null(0).to_numpy(zero_copy_only=False)
    )
    starts = find_message_starts(messages)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[starts]
    borders, size, first = [], 0, 0
    for number, count in enumerate((ends[rows + 1] - ends[rows]).tolist()):
        if number > first and (number - first == _CONVERSATIONS_AT_ONCE or size + count > _BYTES_AT_ONCE):
            borders.append(number)
            size, first = 0, number
        size += count
    return borders


def _make_shingles(messages: pa.ListArray) -> tuple[pa.StringArray, list[int]]:
    """Return the word 3-grams of all conversations, and the position where those of each conversation begin."""
    contents = messages.flatten().field("content")
    ascii_only = pc.string_is_ascii(contents)
    if not pc.all(ascii_only).as_py():
        spaced = pc.replace_substring_regex(contents.filter(pc.invert(ascii_only)), _UNSPACED, r" \1 ")
        contents = pc.replace_with_mask(contents, pc.invert(ascii_only), spaced)
    words = pc.utf8_split_whitespace(pc.utf8_lower(contents))
    lengths = pc.list_value_length(words).to_numpy(zero_copy_only=False)
    before = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    bounds = before[find_message_starts(messages)].tolist()
    flat, n = words.flatten(), int(before[-1])
    # Number of words from each word to the end of its conversation, itself included.
    left = np.repeat(before[find_message_starts(messages)][1:], np.diff(bounds)) - np.arange(n)
    second = _shift_words(flat, 1, left)
    return pc.binary_join_element_wise(flat, second, _shift_words(flat, 2, left), " "), bounds


def _shift_words(words: pa.StringArray, by: int, left: npt.NDArray[np.int64]) -> pa.StringArray:
    """Return for every word the word `by` places later; empty if the conversation ends before."""
    moved = pa.concat_arrays([words[by:], pa.array([""] * min(by, len(words)), words.type)])
    return pc.if_else(pa.array(left > by), moved, "")
