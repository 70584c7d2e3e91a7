"""The turns of a label table in some order, stepped through by key. Knows no text and no reviewer.

Only keys, labels and what can be filtered by is in memory: some hundred bytes a turn.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from drift_data.chats.order import REVIEW, rank_as_number
from drift_data.labels.tables import KEYS, read_labels
from drift_data.review.selection import UNKNOWN, Selection
from drift_data.schema import LABELS, TableName
from drift_data.workspace import Manifest, UserError, Workspace

OPEN = -1  # code of a turn that is not reviewed; else the position of its label in LABELS

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int64]
Key = tuple[str, int]


def hash_of(conversation: str, turn: int) -> int:
    """Return the number that random order goes by: the same for all judges and reviewers, and of Q=to_label."""
    return rank_as_number(f"{conversation}/{turn}", REVIEW)


class Queue:
    """The labelled turns of one judge; a turn is known by its number, the row of the label table.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the labels to review, such as "labels/local".
        against: folder of other labels, to begin with where the two differ.

    Raises:
        UserError: two labels for one turn, or labels of a conversation that is not there.
    """

    def __init__(self, workspace: Workspace, labels: str, against: str | None = None) -> None:
        self.manifest = workspace.require(labels)
        rows = read_labels(workspace, labels, ["dsat_score", "items"])
        rows = rows.with_columns(
            pl.col("label").cast(pl.Enum(LABELS)),
            pl.col("items").list.eval(pl.element().struct.field("name").cast(pl.Categorical)),
        )
        rows = _beside_conversations(workspace, labels, rows)
        self.hashes = np.array([hash_of(*key) for key in rows.select(KEYS).iter_rows()], np.uint64)
        self._sorted = np.argsort(self.hashes, kind="stable")
        self.distances = _distances(rows, self.manifest)
        self.labels = rows["label"].to_physical().to_numpy().astype(np.int8)
        self.others: Codes | None = None if against is None else _others(workspace, against, rows)
        self.places = rows["place"].to_numpy()  # rows of `conversations`
        self.rows = rows.drop("label", "dsat_score", "place")
        self._order = lru_cache(maxsize=None)(self._ordered)
        self._where = lru_cache(maxsize=8)(self._narrowed)

    def __len__(self) -> int:
        return self.rows.height

    def key(self, number: int) -> Key:
        """Return (conversation_id, turn) of a turn."""
        return self.rows["conversation_id"][number], self.rows["turn"][number]

    def number(self, conversation: str, turn: int) -> int | None:
        """Return the number of a turn, None when the judge has no label for it."""
        value = np.uint64(hash_of(conversation, turn))
        at = int(np.searchsorted(self.hashes, value, sorter=self._sorted))
        while at < len(self) and self.hashes[self._sorted[at]] == value:
            if self.key(int(self._sorted[at])) == (conversation, turn):
                return int(self._sorted[at])
            at += 1
        return None

    def step(
        self, chosen: Selection, codes: Codes, start: int | None = None, forward: bool = True
    ) -> int | None:
        """Return the next turn of a selection.

        Args:
            chosen: order and filters.
            codes: of the reviewer's labels, turn by turn.
            start: the turn to go on from, which need not be in the selection; None: before the first.
            forward: else back; going back shows reviewed turns, too. With `state=open`, after the last turn those
                that were passed over come again.
        """
        order, ranks = self._order(chosen.order)
        if not forward:
            wanted = (self._where(chosen) if chosen.state == "open" else self.mask(chosen, codes))[order]
            before = np.flatnonzero(wanted[: ranks[start]]) if start is not None else np.empty(0, np.int64)
            return int(order[before[-1]]) if len(before) else None
        wanted = self.mask(chosen, codes)[order]
        first = 0 if start is None else int(ranks[start]) + 1
        after = np.flatnonzero(wanted[first:]) + first
        if not len(after) and chosen.state == "open":
            after = np.flatnonzero(wanted[: max(0, first - 1)])
        return int(order[after[0]]) if len(after) else None

    def mask(self, chosen: Selection, codes: Codes) -> Flags:
        """Return for every turn whether it is in a selection."""
        states: dict[str, Flags] = {
            "all": np.ones(len(self), np.bool_),
            "open": codes == OPEN,
            "done": codes != OPEN,
            "differ": (codes != OPEN) & (codes != self.labels),
        }
        return np.logical_and(self._where(chosen), states[chosen.state])

    def progress(self, chosen: Selection, codes: Codes) -> tuple[int, int]:
        """Return how many turns of a selection, its state aside, are reviewed, and how many there are."""
        where = self._where(chosen)
        return int((where & (codes != OPEN)).sum()), int(where.sum())

    @cached_property
    def languages(self) -> list[tuple[str, int]]:
        """Return the languages with their turns, the most frequent first."""
        named = self.rows["language"].cast(pl.String).fill_null(UNKNOWN)
        found = named.value_counts().sort(["count", "language"], descending=[True, False]).head(100)
        return [(str(name), int(count)) for name, count in found.iter_rows()]

    @cached_property
    def items(self) -> list[tuple[str, int]]:
        """Return the items that the judge saw with their turns, the most frequent first."""
        found = self.rows["items"].explode().drop_nulls().value_counts(sort=True).head(100)
        return [(str(name), int(count)) for name, count in found.iter_rows()]

    def _ordered(self, order: str) -> tuple[Numbers, Numbers]:
        """Return turns in an order, and each turn's place in it."""
        if order == "log":
            numbers = np.lexsort((self.rows["turn"].to_numpy(), self.places))
        elif order == "random":
            numbers = self._sorted
        else:
            first = self.distances if order == "uncertain" else self._agree()
            if first is None:
                raise UserError(
                    "order=uncertain needs labels with scores and thresholds: these have none."
                    if order == "uncertain"
                    else "order=disagreements needs other labels. Start with AGAINST=another judge."
                )
            numbers = np.lexsort((self.hashes, first))
        ranks = np.empty(len(numbers), np.int64)
        ranks[numbers] = np.arange(len(numbers))
        return numbers, ranks

    def _agree(self) -> Flags | None:
        """Return where the two judges do not differ."""
        if self.others is None:
            return None
        return np.asarray((self.others == OPEN) | (self.others == self.labels), np.bool_)

    def _narrowed(self, chosen: Selection) -> Flags:
        """Return the turns that the filters leave, the state aside."""
        where = np.ones(len(self), np.bool_)
        if chosen.label is not None:
            where &= self.labels == LABELS.index(chosen.label)
        if chosen.item is not None:
            named = pl.col("items").list.eval(pl.element().cast(pl.String) == chosen.item).list.any()
            where &= self.rows.select(named.fill_null(False)).to_series().to_numpy()
        if chosen.language is not None:
            same = pl.col("language").cast(pl.String).fill_null(UNKNOWN) == chosen.language
            where &= self.rows.select(same).to_series().to_numpy()
        return where


def _beside_conversations(workspace: Workspace, labels: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Add `language` and `place`, the row of `conversations`."""
    wanted = rows.select(pl.col("conversation_id").unique())
    parts, start = [], 0
    for batch in workspace.batches(TableName.CONVERSATIONS, ["conversation_id", "language"], 50_000):
        part = pl.DataFrame(batch).with_columns(
            pl.col("language").cast(pl.Categorical), place=pl.int_range(start, start + batch.num_rows)
        )
        parts.append(part.join(wanted, on="conversation_id", how="semi"))
        start += batch.num_rows
    empty = pl.DataFrame(schema={"conversation_id": pl.String, "language": pl.Categorical, "place": pl.Int64})
    joined = rows.join(pl.concat([empty, *parts]), on="conversation_id", how="left", maintain_order="left")
    missing = joined.filter(pl.col("place").is_null())
    if missing.height:
        raise UserError(
            f"{workspace.path(labels)} has labels of a conversation that is not in {TableName.CONVERSATIONS}: "
            f"{missing['conversation_id'][0]!r:.80}. Make both from the same data."
        )
    return joined


def _distances(rows: pl.DataFrame, manifest: Manifest) -> npt.NDArray[np.float64] | None:
    """Return how far the score of DSAT is from its threshold; None for labels without thresholds."""
    threshold = (manifest.options.get("thresholds") or {}).get("dsat")
    if threshold is None:
        return None
    return np.abs(rows["dsat_score"].to_numpy().astype(np.float64) - float(threshold))


def _others(workspace: Workspace, against: str, rows: pl.DataFrame) -> Codes:
    """Return the codes of the other judge's labels, `OPEN` where it has none."""
    workspace.require(against)
    other = read_labels(workspace, against).with_columns(pl.col("label").cast(pl.Enum(LABELS)))
    joined = rows.select(KEYS).join(other, on=KEYS, how="left", maintain_order="left")
    return joined["label"].to_physical().cast(pl.Int8).fill_null(OPEN).to_numpy()
