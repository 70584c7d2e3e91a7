"""What the classifier reads of each feedback turn: numbers, and hashed n-grams of four texts. Knows no label.

The numbers compare the message with the user's earlier ones (a request made again, a templated series), with the
judged reply and with the reply that follows. Of replies only the opening is read: there a reply refuses, apologises,
or begins like the one before. All of it is NumPy over whole batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from drift_data.chats.turns import feedback_mask, message_starts
from drift_data.judge.local.cues import Cues
from drift_data.judge.local.ngrams import (
    Grams,
    Ints,
    Ragged,
    Texts,
    common_ends,
    join_grams,
    overlap,
    runs,
    without,
)
from drift_data.judge.local.trees import Float32s

VERSION: Final = 1  # raised when the code below changes what comes out
COMPARED: Final = 4_000  # characters at each end of a user's message that are compared with other messages
SAID: Final = 200  # characters at each end of the judged message that are read as n-grams
OPENING: Final = 160  # characters of a reply
FIELDS: Final = ("said", "added", "reply", "next")  # texts that are read as n-grams
NONE: Final = -1.0  # a number that there is not: no earlier message, no next reply


@dataclass(frozen=True)
class Turns:
    """The feedback turns of a batch, in order."""

    frame: pl.DataFrame  # at, conversation_id, turn, text, reply, refusal, code
    numbers: Float32s  # (turns, len(names))
    names: tuple[str, ...]
    grams: Mapping[str, Sequence[Grams]]  # field → n-grams, one item a length

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Ints) -> Turns:
        """Return some of the turns, each once, in the given order."""
        grams = {field: [part.take(rows) for part in parts] for field, parts in self.grams.items()}
        frame = self.frame[rows].with_columns(at=np.arange(len(rows)))
        return Turns(frame, self.numbers[rows], self.names, grams)


def join_turns(parts: Sequence[Turns]) -> Turns:
    """Return the turns of all parts, of which there is at least one, in their order."""
    grams = {
        field: [join_grams(same) for same in zip(*(part.grams[field] for part in parts), strict=True)]
        for field in FIELDS
    }
    frame = pl.concat([part.frame for part in parts]).with_columns(at=pl.int_range(pl.len()))
    return Turns(frame, np.concatenate([part.numbers for part in parts]), parts[0].names, grams)


def read_turns(conversations: pa.RecordBatch, cues: Cues) -> Turns:
    """Return the feedback turns of conversations.

    Args:
        conversations: with `conversation_id` and `messages`.
        cues: know the openings of refusals.
    """
    messages = conversations["messages"]
    starts, flat = message_starts(messages), messages.flatten()
    text = pl.Series("text", flat.field("content")).fill_null("")
    role = pl.Series(flat.field("role"))
    user = (role == "user").fill_null(False).to_numpy()
    assistant = (role == "assistant").fill_null(False).to_numpy()
    row = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    at = np.flatnonzero(feedback_mask(messages))
    order = np.cumsum(user) - 1  # number of a user's message among all of them
    first = order[starts[row[at]]] + ~user[starts[row[at]]]  # the first one of the same conversation
    now = order[at]
    before = _within(now - 1, first)
    earlier = _within(now - 2, first)
    replies = np.cumsum(assistant) - 1
    reply = replies[at - 1]
    first_reply = replies[starts[row[at]]] + ~assistant[starts[row[at]]]
    previous = _within(reply - 1, first_reply)
    after = np.minimum(at + 1, len(user) - 1)
    following = np.where((at + 1 < starts[row[at] + 1]) & assistant[after], replies[after], -1)

    said = text.filter(pl.Series(user)).to_list()
    given = text.filter(pl.Series(assistant)).str.slice(0, OPENING).to_list()
    words = Texts(said, COMPARED).words()
    opening = Texts(given, OPENING).words()
    ends = Texts([said[number] for number in now], SAID)

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
        refusal=cues.refusals(frame["reply"]), code=frame["reply"].str.contains("```", literal=True)
    )
    users, openings = _Sets(words), _Sets(opening)
    to_before = _related("before", users, now, users, before)
    numbers = {
        **to_before,
        **_related("earlier", users, now, users, earlier),
        **_related("first", users, now, users, np.where(now - first >= 3, first, -1)),
        **_related("quoted", users, now, openings, reply),
        **_related("redone", openings, following, openings, reply),
        **_related("redoing", openings, reply, openings, previous),
        **_related("answered", openings, following, users, now),
        **_shifted(to_before, row[at]),
        **_repeated(said, now, first),
        **_plain(frame, now - first, following),
    }
    added = without(words.take(now), users.unique.take(before))
    grams = {
        "said": [*runs(ends.words(), 3), *ends.characters(3, 5)],
        "added": runs(added, 1),
        "reply": runs(opening.take(reply), 3),
        "next": runs(opening.take(following), 3),
    }
    columns = np.column_stack([*numbers.values()]).astype(np.float32)
    return Turns(frame, columns, tuple(numbers), grams)


class _Sets:
    """Words of many texts, in order and as sets."""

    def __init__(self, words: Ragged) -> None:
        self.words, self.unique = words, words.unique()


def _within(numbers: Ints, first: Ints) -> Ints:
    return np.where(numbers >= first, numbers, -1)


def _related(name: str, left: _Sets, a: Ints, right: _Sets, b: Ints) -> dict[str, npt.NDArray[np.float64]]:
    """Return how text a of the left relates to text b of the right; -1 stands for no text.

    Shares of a's and of b's words that the other has, what a adds and lacks, common beginning and end, lengths.
    """
    there = (a >= 0) & (b >= 0)
    a, b = np.where(there, a, -1), np.where(there, b, -1)
    sets_a, sets_b = left.unique.take(a), right.unique.take(b)
    words_a, words_b = left.words.take(a), right.words.take(b)
    size_a, size_b, shared = sets_a.lengths, sets_b.lengths, overlap(sets_a, sets_b)
    head, tail = common_ends(words_a, words_b)
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
    return {f"{name}_{key}": np.where(there, value, NONE) for key, value in found.items()}


def _shifted(
    to_before: Mapping[str, npt.NDArray[np.float64]], row: Ints
) -> dict[str, npt.NDArray[np.float64]]:
    """Return how the turn before, and the turn after, relate to their own earlier message."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    for key in ("before_known", "before_kept", "before_added"):
        values = to_before[key]
        same = row[1:] == row[:-1]
        back, ahead = np.full(len(values), NONE), np.full(len(values), NONE)
        back[1:] = np.where(same, values[:-1], NONE)
        ahead[:-1] = np.where(same, values[1:], NONE)
        found |= {f"previous_{key}": back, f"next_{key}": ahead}
    return found


def _repeated(said: Sequence[str], now: Ints, first: Ints) -> dict[str, npt.NDArray[np.float64]]:
    """Return whether the very same text was sent before, and how many messages ago."""
    latest: dict[tuple[int, str], int] = {}
    ago = np.full(len(said), NONE)
    beginnings = dict(zip(now.tolist(), first.tolist(), strict=True))
    for number, text in enumerate(said):
        beginning = beginnings.get(number, number)
        key = (beginning, text.strip())
        if key in latest:
            ago[number] = number - latest[key]
        latest[key] = number
    return {"repeated_ago": np.minimum(ago[now], 5)}


def _plain(frame: pl.DataFrame, position: Ints, following: Ints) -> dict[str, npt.NDArray[np.float64]]:
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
