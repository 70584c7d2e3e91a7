"""Orders and filters the turns of a label table for review, and steps through them.

Memory holds ids, labels and the columns to filter by: some hundred bytes a turn. Texts stay on the disk.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from drift_data.chats.order import REVIEW, rank_as_number
from drift_data.labels.tables import KEY_COLUMNS, read_labels
from drift_data.review.selection import UNKNOWN_LANGUAGE, Selection
from drift_data.schema import LABELS, TableName
from drift_data.workspace import Manifest, UserError, Workspace

# Code for "no label", such as that of a turn not reviewed yet. The code of a label is its position in LABELS.
OPEN_CODE = -1

TurnMask = npt.NDArray[np.bool_]  # (turns,) flags
Codes = npt.NDArray[np.int8]  # (turns,) codes of labels
Numbers = npt.NDArray[np.int64]  # numbers of turns; a turn's number is its row in the label table
TurnKey = tuple[str, int]  # conversation_id, turn


def hash_turn(conversation: str, turn: int) -> int:
    """Return the number by which random order sorts a turn; it is the same for all judges and reviewers.

    `make query Q=to_label` sorts by it, too.
    """
    return rank_as_number(f"{conversation}/{turn}", REVIEW)


class ReviewQueue:
    """The labelled turns of one judge. A turn's number is its row in the label table.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the labels to review, such as "labels/local".
        against: folder of another judge's labels; the order "disagreements" begins where the two judges differ.

    Attributes:
        manifest: manifest of the reviewed labels.
        hashes: (turns,) numbers by which random order sorts, see `hash_turn`.
        distances: (turns,) distance of the DSAT score from its threshold; None for labels without thresholds.
        labels: (turns,) codes of the judge's labels.
        others: (turns,) codes of the other judge's labels; None without another judge.
        places: (turns,) row of each turn's conversation in `conversations`.
        rows: conversation_id, turn, items and language of each turn.

    Raises:
        UserError: the labels have two labels for one turn, or labels of a conversation that does not exist.
    """

    def __init__(self, workspace: Workspace, labels: str, against: str | None = None) -> None:
        self.manifest = workspace.require(labels)
        rows = read_labels(workspace, labels, ["dsat_score", "items"])
        rows = rows.with_columns(
            pl.col("label").cast(pl.Enum(LABELS)),
            pl.col("items").list.eval(pl.element().struct.field("name").cast(pl.Categorical)),
        )
        rows = _add_conversation_rows(workspace, labels, rows)
        self.hashes = np.array([hash_turn(*key) for key in rows.select(KEY_COLUMNS).iter_rows()], np.uint64)
        self._sorted = np.argsort(self.hashes, kind="stable")
        self.distances = _compute_distances(rows, self.manifest)
        self.labels = rows["label"].to_physical().to_numpy().astype(np.int8)
        self.others: Codes | None = None if against is None else _read_other_codes(workspace, against, rows)
        self.places = rows["place"].to_numpy()
        self.rows = rows.drop("label", "dsat_score", "place")
        self._order = lru_cache(maxsize=None)(self._sort_turns)
        self._where = lru_cache(maxsize=8)(self._apply_filters)

    def __len__(self) -> int:
        return self.rows.height

    def key(self, number: int) -> TurnKey:
        """Return (conversation_id, turn) of a turn."""
        return self.rows["conversation_id"][number], self.rows["turn"][number]

    def find_number(self, conversation: str, turn: int) -> int | None:
        """Return the number of a turn; None if the judge has no label for it."""
        value = np.uint64(hash_turn(conversation, turn))
        at = int(np.searchsorted(self.hashes, value, sorter=self._sorted))
        while at < len(self) and self.hashes[self._sorted[at]] == value:
            if self.key(int(self._sorted[at])) == (conversation, turn):
                return int(self._sorted[at])
            at += 1
        return None

    def find_next(
        self, chosen: Selection, codes: Codes, start: int | None = None, forward: bool = True
    ) -> int | None:
        """Return the number of the next turn of a selection; None if there is no further turn.

        Args:
            chosen: order and filters.
            codes: (turns,) codes of the reviewer's labels.
            start: number of the turn to step from, which need not be in the selection; None: the step begins before
                the first turn.
            forward: whether to step forward. With `state=open`, a step forward from the last turn leads to the first
                turn that was skipped, and a step back leads to reviewed turns, too.
        """
        order, ranks = self._order(chosen.order)
        if not forward:
            wanted = (self._where(chosen) if chosen.state == "open" else self.select_turns(chosen, codes))[
                order
            ]
            before = np.flatnonzero(wanted[: ranks[start]]) if start is not None else np.empty(0, np.int64)
            return int(order[before[-1]]) if len(before) else None
        wanted = self.select_turns(chosen, codes)[order]
        first = 0 if start is None else int(ranks[start]) + 1
        after = np.flatnonzero(wanted[first:]) + first
        if not len(after) and chosen.state == "open":
            after = np.flatnonzero(wanted[: max(0, first - 1)])
        return int(order[after[0]]) if len(after) else None

    def select_turns(self, chosen: Selection, codes: Codes) -> TurnMask:
        """Return (turns,) whether each turn is in a selection.

        Args:
            chosen: filters and state.
            codes: (turns,) codes of the reviewer's labels.
        """
        states: dict[str, TurnMask] = {
            "all": np.ones(len(self), np.bool_),
            "open": codes == OPEN_CODE,
            "done": codes != OPEN_CODE,
            "differ": (codes != OPEN_CODE) & (codes != self.labels),
        }
        return np.logical_and(self._where(chosen), states[chosen.state])

    def count_reviewed(self, chosen: Selection, codes: Codes) -> tuple[int, int]:
        """Return how many turns of a selection are reviewed, and how many it has in all, whatever its `state`."""
        where = self._where(chosen)
        return int((where & (codes != OPEN_CODE)).sum()), int(where.sum())

    @cached_property
    def languages(self) -> list[tuple[str, int]]:
        """Return (language, number of turns) of the 100 most frequent languages, the most frequent first."""
        named = self.rows["language"].cast(pl.String).fill_null(UNKNOWN_LANGUAGE)
        found = named.value_counts().sort(["count", "language"], descending=[True, False]).head(100)
        return [(str(name), int(count)) for name, count in found.iter_rows()]

    @cached_property
    def items(self) -> list[tuple[str, int]]:
        """Return (item, number of turns) of the 100 items that the judge saw most often, the most frequent first."""
        found = self.rows["items"].explode().drop_nulls().value_counts(sort=True).head(100)
        return [(str(name), int(count)) for name, count in found.iter_rows()]

    def _sort_turns(self, order: str) -> tuple[Numbers, Numbers]:
        """Return the turns' numbers in an order, and each turn's rank in it.

        Raises:
            UserError: the labels do not have the values by which the order sorts.
        """
        if order == "log":
            numbers = np.lexsort((self.rows["turn"].to_numpy(), self.places))
        elif order == "random":
            numbers = self._sorted
        else:
            first = self.distances if order == "uncertain" else self._find_agreeing()
            if first is None:
                raise UserError(
                    "order=uncertain needs labels with scores and thresholds, which these labels do not have."
                    if order == "uncertain"
                    else "order=disagreements needs the labels of another judge. Name their table with AGAINST=."
                )
            numbers = np.lexsort((self.hashes, first))
        ranks = np.empty(len(numbers), np.int64)
        ranks[numbers] = np.arange(len(numbers))
        return numbers, ranks

    def _find_agreeing(self) -> TurnMask | None:
        """Return (turns,) whether the other judge gives the same label or none; None without another judge."""
        if self.others is None:
            return None
        return np.asarray((self.others == OPEN_CODE) | (self.others == self.labels), np.bool_)

    def _apply_filters(self, chosen: Selection) -> TurnMask:
        """Return (turns,) whether each turn passes the filters, whatever its state."""
        where = np.ones(len(self), np.bool_)
        if chosen.label is not None:
            where &= self.labels == LABELS.index(chosen.label)
        if chosen.item is not None:
            named = pl.col("items").list.eval(pl.element().cast(pl.String) == chosen.item).list.any()
            where &= self.rows.select(named.fill_null(False)).to_series().to_numpy()
        if chosen.language is not None:
            same = pl.col("language").cast(pl.String).fill_null(UNKNOWN_LANGUAGE) == chosen.language
            where &= self.rows.select(same).to_series().to_numpy()
        return where


def _add_conversation_rows(workspace: Workspace, labels: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with `language` and `place`, the row of the conversation in `conversations`.

    Raises:
        UserError: the labels have a conversation that does not exist.
    """
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
            f"{missing['conversation_id'][0]!r:.80}. Make both tables from the same data."
        )
    return joined


def _compute_distances(rows: pl.DataFrame, manifest: Manifest) -> npt.NDArray[np.float64] | None:
    """Return (turns,) the distance of the DSAT score from its threshold; None for labels without thresholds."""
    threshold = (manifest.options.get("thresholds") or {}).get("dsat")
    if threshold is None:
        return None
    return np.abs(rows["dsat_score"].to_numpy().astype(np.float64) - float(threshold))


def _read_other_codes(workspace: Workspace, against: str, rows: pl.DataFrame) -> Codes:
    """Return (turns,) codes of the other judge's labels, `OPEN_CODE` where it has none."""
    workspace.require(against)
    other = read_labels(workspace, against).with_columns(pl.col("label").cast(pl.Enum(LABELS)))
    joined = rows.select(KEY_COLUMNS).join(other, on=KEY_COLUMNS, how="left", maintain_order="left")
    return joined["label"].to_physical().cast(pl.Int8).fill_null(OPEN_CODE).to_numpy()
