"""Writes any number of benchmark chats in WildChat-1M's schema, with realistic sizes and the paper's shares of labels.

The words of simulated users stand before filler text, so sizes and labels are realistic and contents are not. The logs
are written as a stream, with one batch in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from drift_data.simulate import users, wildchat, world

_Ints = npt.NDArray[np.int64]

BATCH_CONVERSATIONS: Final = 5_000  # conversations that are made at once, also the rows of a row group
ROWS_PER_FILE: Final = 100_000
# Shares of conversations: in the paper 12 % have DSAT, 5 % have SAT, 0.5 % have SAT right after DSAT.
KIND_SHARES: Final = {"dsat_then_sat": 0.005, "dsat": 0.115, "sat": 0.045}
# Shares of conversations with 1, 2, … 10 exchanges.
_EXCHANGE_SHARES: Final = np.array([0.52, 0.16, 0.1, 0.07, 0.05, 0.03, 0.03, 0.02, 0.01, 0.01])
_MODELS: Final = ("gpt-3.5-turbo-0613", "gpt-4-0314", "gpt-4-1106-preview", "gpt-3.5-turbo-0301")
_WORD_COUNT = 6_000  # different words of the filler text
_SENTENCE_COUNT = 200_000  # different filler sentences
_HEADS_PER_KIND = 2_000  # different beginnings of messages of one kind, such as complaints


def write_wildchat(
    folder: Path, conversations: int, seed: int, rows_per_file: int = ROWS_PER_FILE
) -> dict[str, int]:
    """Write conversations as `train-00000.parquet`, … into a folder. A conversation takes about 2 KB on the disk.

    Args:
        folder: is made if it is missing; it must not hold such files yet.
        conversations: number of conversations to write.
        seed: equal seeds give equal files.
        rows_per_file: conversations in one file, a multiple of `BATCH_CONVERSATIONS`.

    Returns:
        Number of conversations of each kind ("dsat_then_sat", "dsat" and "sat" without the former, "neutral"), and
        of "messages".

    Raises:
        ValueError: `rows_per_file` is not a multiple of `BATCH_CONVERSATIONS`.
        FileExistsError: the folder holds logs already.
    """
    if rows_per_file % BATCH_CONVERSATIONS:
        raise ValueError(f"rows_per_file must be a multiple of {BATCH_CONVERSATIONS}, not {rows_per_file}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("train-*.parquet")):
        raise FileExistsError(f"{folder} holds logs already; choose an empty folder")
    texts, wildchat_rows = _ContentSource(seed), wildchat.WildChatRows(seed)
    counts = dict.fromkeys((*KIND_SHARES, "neutral", "messages"), 0)
    progress = tqdm(total=conversations, desc="benchmark logs", unit="chat", mininterval=0.5)
    for number, first in enumerate(range(0, conversations, rows_per_file)):
        path, end = folder / f"train-{number:05d}.parquet", min(first + rows_per_file, conversations)
        with pq.ParquetWriter(
            path, wildchat.WILDCHAT_SCHEMA, compression="zstd", compression_level=1
        ) as writer:
            for start in range(first, end, BATCH_CONVERSATIONS):
                kinds, lengths, contents = texts.draw(min(BATCH_CONVERSATIONS, end - start))
                models = pa.array(_MODELS).take(pa.array(texts.rng.integers(0, len(_MODELS), len(kinds))))
                writer.write_batch(
                    wildchat_rows.make_batch(start, contents, lengths, models),
                    row_group_size=BATCH_CONVERSATIONS,
                )
                for kind, name in enumerate((*KIND_SHARES, "neutral")):
                    counts[name] += int((kinds == kind).sum())
                counts["messages"] += len(contents)
                progress.update(len(kinds))
    progress.close()
    return counts


class _ContentSource:
    """Draws the contents of messages: what a simulated user or assistant says, then filler sentences."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 1])
        rng = Random(f"benchmark {seed}")
        groups = [
            self._make_heads(rng, make)
            for make in (_word_request, _write_reply, _word_complaint, _word_thanks, _word_new_request)
        ]
        self._pieces = pa.concat_arrays([pa.array(group) for group in groups] + [self._make_sentences()])

    def _make_heads(self, rng: Random, make: Callable[[Random], str]) -> list[str]:
        return [make(rng) for _ in range(_HEADS_PER_KIND)]

    def _make_sentences(self) -> pa.Array:
        letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
        weights = 1.0 / np.arange(2, 28)
        words = pa.array(
            [
                "".join(self.rng.choice(letters, n, p=weights / weights.sum()))
                for n in self.rng.integers(2, 11, _WORD_COUNT)
            ]
        )
        frequency = 1.0 / np.arange(3, _WORD_COUNT + 3)  # Zipf's law
        lengths = self.rng.integers(6, 24, _SENTENCE_COUNT)
        drawn = self.rng.choice(_WORD_COUNT, int(lengths.sum()), p=frequency / frequency.sum())
        sentences = _join_pieces(words.take(pa.array(drawn)), lengths)
        return pc.binary_join_element_wise(pc.utf8_capitalize(sentences), pa.scalar("."), "")

    def draw(self, number: int) -> tuple[_Ints, _Ints, pa.Array]:
        """Draw the contents of conversations.

        Returns:
            Each conversation's kind (position in `KIND_SHARES`; one more for neutral), (number,); how many messages it
            has, (number,); and the contents of all messages, one after the other.
        """
        kinds = np.searchsorted(np.cumsum(list(KIND_SHARES.values())), self.rng.random(number), side="right")
        exchanges = (
            self.rng.choice(len(_EXCHANGE_SHARES), number, p=_EXCHANGE_SHARES / _EXCHANGE_SHARES.sum()) + 1
        )
        # Fewest exchanges of each kind: room for its complaint, its thanks and the replies to them.
        exchanges = np.maximum(exchanges, np.array([3, 2, 2, 1])[kinds])
        lengths = exchanges * 2
        starts = np.cumsum(lengths) - lengths
        total = int(lengths.sum())
        place = np.arange(total) - np.repeat(starts, lengths)

        # The group that each message begins with: 0 request, 1 reply, 2 complaint, 3 thanks, 4 new request.
        heads = np.where(place % 2 == 1, 1, np.where(place == 0, 0, 4))
        heads[starts[kinds <= 1] + 2] = 2  # the second user message complains
        heads[starts[kinds == 0] + 4] = 3  # the third gives thanks
        heads[starts[kinds == 2] + 2] = 3
        # Median number of filler sentences after each group of heads: request, reply, complaint, thanks, new request.
        median = np.array([3.0, 9.5, 0.8, 0.3, 1.3])[heads]
        sentences = np.minimum((median * self.rng.lognormal(0, 0.9, total)).astype(np.int64), 400)

        sizes = sentences + 1
        pieces = self.rng.integers(5 * _HEADS_PER_KIND, len(self._pieces), int(sizes.sum()))
        pieces[np.cumsum(sizes) - sizes] = heads * _HEADS_PER_KIND + self.rng.integers(
            0, _HEADS_PER_KIND, total
        )
        return kinds, lengths, _join_pieces(self._pieces.take(pa.array(pieces)), sizes)


def _join_pieces(pieces: pa.Array, sizes: _Ints) -> pa.Array:
    """Join consecutive strings with spaces: the first `sizes[0]`, then the next `sizes[1]`, and so on."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), pieces), " ")


def _word_request(rng: Random) -> str:
    return world.word_request(world.draw_random_task(rng), rng)


def _write_reply(rng: Random) -> str:
    return world.write_reply(world.draw_random_task(rng), rng)


def _word_complaint(rng: Random) -> str:
    task, dimension = world.draw_random_task(rng), rng.choice(world.DIMENSIONS)
    return users.word_complaint(task, world.spoil(task, [dimension], rng), dimension, rng)


def _word_thanks(rng: Random) -> str:
    return users.word_thanks(rng)


def _word_new_request(rng: Random) -> str:
    return users.word_next_request(_word_request(rng), world.draw_random_task(rng), rng.random() < 0.25, rng)
