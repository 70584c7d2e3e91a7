"""Benchmark logs in WildChat-1M's schema, of any number, with realistic sizes and the paper's shares.

Text is filler behind the words of simulated users, so sizes and labels are realistic and contents are not.
Written as a stream, a batch in memory at a time. This module knows nothing of workspaces.
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

Ints = npt.NDArray[np.int64]

BATCH: Final = 5_000  # conversations, also the rows of a row group
ROWS_PER_FILE: Final = 100_000
# Shares of conversations: in the paper 12 % have DSAT, 5 % have SAT, 0.5 % have SAT right after DSAT.
SHARES: Final = {"dsat_then_sat": 0.005, "dsat": 0.115, "sat": 0.045}
_EXCHANGES: Final = np.array([0.52, 0.16, 0.1, 0.07, 0.05, 0.03, 0.03, 0.02, 0.01, 0.01])  # 1, 2, … 10
_MODELS: Final = ("gpt-3.5-turbo-0613", "gpt-4-0314", "gpt-4-1106-preview", "gpt-3.5-turbo-0301")
_WORDS, _SENTENCES, _HEADS = 6_000, 200_000, 2_000


def write_wildchat(
    folder: Path, conversations: int, seed: int, rows_per_file: int = ROWS_PER_FILE
) -> dict[str, int]:
    """Write conversations as `train-00000.parquet`, … into a folder, about 2 KB each on the disk.

    Args:
        folder: is made when missing; must hold no such file yet.
        conversations: how many.
        seed: equal seeds write equal files.
        rows_per_file: a multiple of `BATCH`.

    Returns:
        Conversations by kind: "dsat_then_sat", "dsat" and "sat" (without those), "neutral"; and "messages".
    """
    if rows_per_file % BATCH:
        raise ValueError(f"rows_per_file must be a multiple of {BATCH}, not {rows_per_file}")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("train-*.parquet")):
        raise FileExistsError(f"{folder} holds logs already; choose an empty folder")
    texts, dresser = _Texts(seed), wildchat.Dresser(seed)
    counts = dict.fromkeys((*SHARES, "neutral", "messages"), 0)
    progress = tqdm(total=conversations, desc="benchmark logs", unit="chat", mininterval=0.5)
    for number, first in enumerate(range(0, conversations, rows_per_file)):
        path, end = folder / f"train-{number:05d}.parquet", min(first + rows_per_file, conversations)
        with pq.ParquetWriter(path, wildchat.SCHEMA, compression="zstd", compression_level=1) as writer:
            for start in range(first, end, BATCH):
                kinds, lengths, contents = texts.draw(min(BATCH, end - start))
                models = pa.array(_MODELS).take(pa.array(texts.rng.integers(0, len(_MODELS), len(kinds))))
                writer.write_batch(dresser.rows(start, contents, lengths, models), row_group_size=BATCH)
                for kind, name in enumerate((*SHARES, "neutral")):
                    counts[name] += int((kinds == kind).sum())
                counts["messages"] += len(contents)
                progress.update(len(kinds))
    progress.close()
    return counts


class _Texts:
    """Draws the contents of conversations: what simulated users say, then filler sentences."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 1])
        rng = Random(f"benchmark {seed}")
        groups = [self._pool(rng, make) for make in (_request, _reply, _complaint, _thanks, _new_request)]
        self._pieces = pa.concat_arrays([pa.array(group) for group in groups] + [self._sentences()])

    def _pool(self, rng: Random, make: Callable[[Random], str]) -> list[str]:
        return [make(rng) for _ in range(_HEADS)]

    def _sentences(self) -> pa.Array:
        letters = np.array(list("etaoinshrdlucmfwypvbgkqjxz"))
        weights = 1.0 / np.arange(2, 28)
        words = pa.array(
            [
                "".join(self.rng.choice(letters, n, p=weights / weights.sum()))
                for n in self.rng.integers(2, 11, _WORDS)
            ]
        )
        frequency = 1.0 / np.arange(3, _WORDS + 3)  # Zipf
        lengths = self.rng.integers(6, 24, _SENTENCES)
        drawn = self.rng.choice(_WORDS, int(lengths.sum()), p=frequency / frequency.sum())
        sentences = _join(words.take(pa.array(drawn)), lengths)
        return pc.binary_join_element_wise(pc.utf8_capitalize(sentences), pa.scalar("."), "")

    def draw(self, number: int) -> tuple[Ints, Ints, pa.Array]:
        """Return each conversation's kind (index into `SHARES`) and number of messages, and all contents."""
        kinds = np.searchsorted(np.cumsum(list(SHARES.values())), self.rng.random(number), side="right")
        exchanges = self.rng.choice(len(_EXCHANGES), number, p=_EXCHANGES / _EXCHANGES.sum()) + 1
        exchanges = np.maximum(exchanges, np.array([3, 2, 2, 1])[kinds])
        lengths = exchanges * 2
        starts = np.cumsum(lengths) - lengths
        total = int(lengths.sum())
        place = np.arange(total) - np.repeat(starts, lengths)

        heads = np.where(place % 2 == 1, 1, np.where(place == 0, 0, 4))  # reply, first request, new request
        heads[starts[kinds <= 1] + 2] = 2  # the second user message complains
        heads[starts[kinds == 0] + 4] = 3  # the third gives thanks
        heads[starts[kinds == 2] + 2] = 3
        # median sentences after: request, reply, complaint, thanks, new request
        median = np.array([3.0, 9.5, 0.8, 0.3, 1.3])[heads]
        sentences = np.minimum((median * self.rng.lognormal(0, 0.9, total)).astype(np.int64), 400)

        sizes = sentences + 1
        pieces = self.rng.integers(5 * _HEADS, len(self._pieces), int(sizes.sum()))
        pieces[np.cumsum(sizes) - sizes] = heads * _HEADS + self.rng.integers(0, _HEADS, total)
        return kinds, lengths, _join(self._pieces.take(pa.array(pieces)), sizes)


def _join(pieces: pa.Array, sizes: Ints) -> pa.Array:
    """Join consecutive strings, so many at a time, with a space between."""
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), pieces), " ")


def _request(rng: Random) -> str:
    return world.request_text(world.random_task(rng), rng)


def _reply(rng: Random) -> str:
    return world.reply_text(world.random_task(rng), rng)


def _complaint(rng: Random) -> str:
    task, dimension = world.random_task(rng), rng.choice(world.DIMENSIONS)
    return users.complaint(task, world.spoil(task, [dimension], rng), dimension, rng)


def _thanks(rng: Random) -> str:
    return users.thanks(rng)


def _new_request(rng: Random) -> str:
    return users.next_request(_request(rng), world.random_task(rng), rng.random() < 0.25, rng)
