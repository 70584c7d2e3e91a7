"""Computes what the classifier reads of each feedback turn: numbers, and hashed n-grams of four texts.

The numbers compare the message with the user's earlier messages (a request made again, a templated series), with the
judged reply and with the reply that follows. Only the opening of a reply is read: there it refuses, apologises, or
begins like the reply before. Everything is computed in NumPy over whole batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from drift_data.chats.turns import find_message_starts, mask_feedback_turns
from drift_data.judge.local.cues import Cues
from drift_data.judge.local.ngrams import (
    FoldedTexts,
    Grams,
    Ints,
    Ragged,
    count_common_ends,
    count_shared,
    hash_word_runs,
    join_grams,
    remove_known,
)
from drift_data.judge.local.trees import Float32s

FEATURES_VERSION: Final = 1  # to be raised when a change of the code below changes any feature
COMPARED_CHARACTERS: Final = 4_000  # characters at each end of a user's message that are compared
MESSAGE_END_CHARACTERS: Final = 200  # characters at each end of the judged message that are read as n-grams
OPENING_CHARACTERS: Final = 160  # characters at the beginning of a reply that are read
# The texts that are read as n-grams: the judged message, its words that the message before lacks, the opening of the
# judged reply, and the opening of the next reply.
TEXT_FIELDS: Final = ("said", "added", "reply", "next")
# Value of a number that cannot be computed, such as a comparison with an earlier message where there is none.
MISSING: Final = -1.0


@dataclass(frozen=True)
class FeedbackTurns:
    """The feedback turns of a batch, in order."""

    frame: pl.DataFrame  # at, conversation_id, turn, text, reply, refusal, code
    numbers: Float32s  # (turns, names)
    names: tuple[str, ...]  # names of the numbers
    grams: Mapping[str, Sequence[Grams]]  # text field → n-grams, one element for each length

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Ints) -> FeedbackTurns:
        """Return some of the turns in the given order; each row number may occur once."""
        grams = {field: [part.take(rows) for part in parts] for field, parts in self.grams.items()}
        frame = self.frame[rows].with_columns(at=np.arange(len(rows)))
        return FeedbackTurns(frame, self.numbers[rows], self.names, grams)


def join_turns(parts: Sequence[FeedbackTurns]) -> FeedbackTurns:
    """Return the turns of all parts in their order; there must be at least one part."""
    grams = {
        field: [join_grams(same) for same in zip(*(part.grams[field] for part in parts), strict=True)]
        for field in TEXT_FIELDS
    }
    frame = pl.concat([part.frame for part in parts]).with_columns(at=pl.int_range(pl.len()))
    return FeedbackTurns(frame, np.concatenate([part.numbers for part in parts]), parts[0].names, grams)


def read_turns(conversations: pa.RecordBatch, cues: Cues) -> FeedbackTurns:
    """Return the feedback turns of conversations.

    Args:
        conversations: batch with `conversation_id` and `messages`.
        cues: finds the replies that open like a refusal.
    """
    messages = conversations["messages"]
    starts, flat = find_message_starts(messages), messages.flatten()
    text = pl.Series("text", flat.field("content")).fill_null("")
    role = pl.Series(flat.field("role"))
    user = (role == "user").fill_null(False).to_numpy()
    assistant = (role == "assistant").fill_null(False).to_numpy()
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    at = np.flatnonzero(mask_feedback_turns(messages))
    # User messages and replies are numbered through the batch. For each feedback turn: the numbers of the judged
    # message (now), of the user's messages before it (before, earlier), of the judged reply, of the reply before
    # (previous) and of the reply that comes next (following). -1 stands for none.
    order = np.cumsum(user) - 1  # number of each user message
    first = order[starts[row[at]]] + ~user[starts[row[at]]]  # the conversation's first user message
    now = order[at]
    before = _keep_from(now - 1, first)
    earlier = _keep_from(now - 2, first)
    replies = np.cumsum(assistant) - 1  # number of each reply
    reply = replies[at - 1]
    first_reply = replies[starts[row[at]]] + ~assistant[starts[row[at]]]
    previous = _keep_from(reply - 1, first_reply)
    after = np.minimum(at + 1, len(user) - 1)
    following = np.where((at + 1 < starts[row[at] + 1]) & assistant[after], replies[after], -1)

    said = text.filter(pl.Series(user)).to_list()
    given = text.filter(pl.Series(assistant)).str.slice(0, OPENING_CHARACTERS).to_list()
    words = FoldedTexts(said, COMPARED_CHARACTERS).hash_words()
    opening = FoldedTexts(given, OPENING_CHARACTERS).hash_words()
    ends = FoldedTexts([said[number] for number in now], MESSAGE_END_CHARACTERS)

    frame = pl.DataFrame(
        {
            "at": np.arange(len(at)),
            "conversation_id": pl.Series(
                conversations["conversation_id"].take(pa.array(row[at])), dtype=pl.String
            ),
            "turn": (at - starts[row[at]]).astype(np.int32),
            "text": text.gather(at),
            "reply": text.gather(at - 1),
        }
    )
    frame = frame.with_columns(
        refusal=cues.find_refusals(frame["reply"]), code=frame["reply"].str.contains("```", literal=True)
    )
    users, openings = _WordSets(words), _WordSets(opening)
    to_before = _compare_texts("before", users, now, users, before)
    numbers = {
        **to_before,
        **_compare_texts("earlier", users, now, users, earlier),
        **_compare_texts("first", users, now, users, np.where(now - first >= 3, first, -1)),
        **_compare_texts("quoted", users, now, openings, reply),
        **_compare_texts("redone", openings, following, openings, reply),
        **_compare_texts("redoing", openings, reply, openings, previous),
        **_compare_texts("answered", openings, following, users, now),
        **_shift_to_neighbours(to_before, row[at]),
        **_find_repeats(said, now, first),
        **_measure_messages(frame, now - first, following),
    }
    added = remove_known(words.take(now), users.unique.take(before))
    grams = {
        "said": [*hash_word_runs(ends.hash_words(), 3), *ends.hash_characters(3, 5)],
        "added": hash_word_runs(added, 1),
        "reply": hash_word_runs(opening.take(reply), 3),
        "next": hash_word_runs(opening.take(following), 3),
    }
    columns = np.column_stack([*numbers.values()]).astype(np.float32)
    return FeedbackTurns(frame, columns, tuple(numbers), grams)


class _WordSets:
    """The words of many texts, in order and as sets."""

    def __init__(self, words: Ragged) -> None:
        self.words = words  # in reading order
        self.unique = words.unique()  # each once, as keys of 40 bits


def _keep_from(numbers: Ints, first: Ints) -> Ints:
    """Return the numbers, with -1 (no text) in place of those below `first`."""
    return np.where(numbers >= first, numbers, -1)


def _compare_texts(
    name: str, left: _WordSets, a: Ints, right: _WordSets, b: Ints
) -> dict[str, npt.NDArray[np.float64]]:
    """Return how each text `a` of `left` relates to the text `b` of `right` beside it; -1 stands for no text.

    The numbers are the share of a's words that b has (`known`) and of b's words that a has (`kept`), how many words a
    adds and lacks, the length of the common beginning and end, and the ratio of the lengths. Their names begin with
    `name`.
    """
    there = (a >= 0) & (b >= 0)
    a, b = np.where(there, a, -1), np.where(there, b, -1)
    sets_a, sets_b = left.unique.take(a), right.unique.take(b)
    words_a, words_b = left.words.take(a), right.words.take(b)
    size_a, size_b, shared = sets_a.lengths, sets_b.lengths, count_shared(sets_a, sets_b)
    head, tail = count_common_ends(words_a, words_b)
    shorter = np.maximum(1, np.minimum(words_a.lengths, words_b.lengths))
    longer = np.maximum(1, np.maximum(words_a.lengths, words_b.lengths))
    found = {
        "known": shared / np.maximum(1, size_a),
        "kept": shared / np.maximum(1, size_b),
        "added": np.log1p(size_a - shared),
        "gone": np.log1p(size_b - shared),
        "head": head / shorter,
        "tail": tail / shorter,
        "head_words": np.minimum(head, 20),
        "frame": np.minimum(head + tail, longer) / longer,
        "longer": np.log((words_a.lengths + 1) / (words_b.lengths + 1)),
    }
    return {f"{name}_{key}": np.where(there, value, MISSING) for key, value in found.items()}


def _shift_to_neighbours(
    to_before: Mapping[str, npt.NDArray[np.float64]], row: Ints
) -> dict[str, npt.NDArray[np.float64]]:
    """Return, for each turn, what `to_before` says of the feedback turns before and after it in the conversation."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    for key in ("before_known", "before_kept", "before_added"):
        values = to_before[key]
        same = row[1:] == row[:-1]
        back, ahead = np.full(len(values), MISSING), np.full(len(values), MISSING)
        back[1:] = np.where(same, values[:-1], MISSING)
        ahead[:-1] = np.where(same, values[1:], MISSING)
        found |= {f"previous_{key}": back, f"next_{key}": ahead}
    return found


def _find_repeats(said: Sequence[str], now: Ints, first: Ints) -> dict[str, npt.NDArray[np.float64]]:
    """Return how many of the user's messages ago the very same text was sent, at most 5; `MISSING` if never."""
    latest: dict[tuple[int, str], int] = {}
    ago = np.full(len(said), MISSING)
    beginnings = dict(zip(now.tolist(), first.tolist(), strict=True))
    for number, text in enumerate(said):
        beginning = beginnings.get(number, number)
        key = (beginning, text.strip())
        if key in latest:
            ago[number] = number - latest[key]
        latest[key] = number
    return {"repeated_ago": np.minimum(ago[now], 5)}


def _measure_messages(
    frame: pl.DataFrame, position: Ints, following: Ints
) -> dict[str, npt.NDArray[np.float64]]:
    """Return numbers of the message and the judged reply alone, such as lengths and marks.

    Args:
        frame: `text`, `reply`, `refusal`, `code` of each turn.
        position: how many of the user's messages come before this one in the conversation.
        following: number of the next reply; -1 if there is none.
    """
    text, reply = pl.col("text"), pl.col("reply")
    head = text.str.slice(0, 400)
    beginning = text.str.slice(0, 1_000)
    found = frame.select(
        length=text.str.len_chars().log1p(),
        lines=text.str.count_matches("\n", literal=True).log1p(),
        question=text.str.slice(-20).str.contains(r"[?？؟]\s*$"),
        questions=head.str.count_matches(r"[?？؟]").clip(0, 3),
        exclamations=head.str.count_matches(r"[!！]").clip(0, 3),
        colon=head.str.contains(r"[:：]"),
        quotes=head.str.contains('["“«「]'),
        digits=head.str.count_matches(r"\d").clip(0, 10),
        starts_lower=text.str.slice(0, 20).str.contains(r"^\s*\p{Ll}"),
        has_code=beginning.str.contains(r"```|[;{}]\s*\n|^\s*(def|import|class|SELECT|#include)\b"),
        trace=beginning.str.contains(r"(?i)traceback|exception|error[: ]|\berror\b"),
        refused=pl.col("refusal"),
        replied_code=pl.col("code"),
        replied_question=reply.str.slice(-200).str.contains(r"[?？؟]\s*$"),
        replied_list=reply.str.slice(0, 400).str.contains(r"(?m)^\s*(1[.)、]|[-*•] )"),
    )
    numbers = {column.name: column.cast(pl.Float64).to_numpy() for column in found}
    return {
        **numbers,
        "position": np.minimum(position, 6).astype(np.float64),
        "no_next": (following < 0).astype(np.float64),
    }
