"""Near-duplicate conversations, by MinHash over word 3-grams. Knows nothing of roles: only the words count.

Letters of scripts that put no space between words count as words. What is kept of a conversation is its
sketch, about two kilobytes: memory grows with the number of conversations.
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
_AT_ONCE, _BYTES_AT_ONCE = 500, 2 << 20  # conversations whose words are Python objects at one time
# Scripts written without spaces: Han, kana, Thai, Lao, Khmer, Myanmar.
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"


class NearDuplicates:
    """Finds conversations whose words nearly repeat those of an earlier one that was kept."""

    def __init__(self, threshold: float) -> None:
        self._sketches = RMinHashDeduplicator(threshold, PERMUTATIONS, use_lsh=True, seed=_SEED)
        self._count = 0

    def add(self, messages: pa.ListArray, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which of the flagged rows nearly repeat an earlier one; the others are remembered."""
        repeats = np.zeros(len(rows), dtype=np.bool_)
        flagged = np.flatnonzero(rows)
        for at in np.split(flagged, _borders(messages, flagged)):
            shingles, bounds = _shingles(messages.take(pa.array(at)))
            entries = [
                (str(self._count + i), shingles[bounds[i] : bounds[i + 1]].to_pylist())
                for i in range(len(at))
            ]
            self._count += len(at)
            repeats[at] = ~np.array(self._sketches.add_pairs(entries), dtype=np.bool_)
        return repeats


def _borders(messages: pa.ListArray, rows: npt.NDArray[np.int64]) -> list[int]:
    """Return where to cut some rows so that each part has few bytes; one conversation is never cut."""
    lengths = (
        pc.binary_length(messages.flatten().field("content")).fill_null(0).to_numpy(zero_copy_only=False)
    )
    starts = find_message_starts(messages)
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])[starts]
    borders, size, first = [], 0, 0
    for number, count in enumerate((ends[rows + 1] - ends[rows]).tolist()):
        if number > first and (number - first == _AT_ONCE or size + count > _BYTES_AT_ONCE):
            borders.append(number)
            size, first = 0, number
        size += count
    return borders


def _shingles(messages: pa.ListArray) -> tuple[pa.StringArray, list[int]]:
    """Return the word 3-grams of all conversations, and where each conversation's begin."""
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
    left = np.repeat(before[find_message_starts(messages)][1:], np.diff(bounds)) - np.arange(
        n
    )  # words to its end
    second = _shifted(flat, 1, left)
    return pc.binary_join_element_wise(flat, second, _shifted(flat, 2, left), " "), bounds


def _shifted(words: pa.StringArray, by: int, left: npt.NDArray[np.int64]) -> pa.StringArray:
    """Return the word `by` places on for every word; empty where the conversation ends before."""
    moved = pa.concat_arrays([words[by:], pa.array([""] * min(by, len(words)), words.type)])
    return pc.if_else(pa.array(left > by), moved, "")
