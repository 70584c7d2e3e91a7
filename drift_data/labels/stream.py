"""Streams a label table beside its conversations, joined by key, whatever order its rows are in.

DuckDB sorts the labels into the order of the conversations; what does not fit into memory goes to disk.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drift_data.schema import TableName
from drift_data.workspace import AccountingError, UserError, Workspace

_SORT_MEMORY = "1GB"  # limit of DuckDB's sort; what does not fit goes to a temporary folder


def iter_with_labels(
    conversations: Iterable[pa.RecordBatch],
    workspace: Workspace,
    labels: str,
    columns: Sequence[str],
    where: str = "true",
) -> Iterator[tuple[pa.RecordBatch, pa.Table]]:
    """Yield each batch of conversations with its label rows, in the order of the conversations and of `turn`.

    Args:
        conversations: batches of the table `conversations`, in its order and from its start, with their ids.
        workspace: holds `conversations` and the labels.
        labels: folder of the label table, such as "labels/local".
        columns: columns of the label rows; `conversation_id` and `turn` are always included.
        where: SQL condition on the label rows.

    Raises:
        UserError: a label belongs to a conversation that is not there, or a turn has two labels.
    """
    wanted = list(dict.fromkeys(["conversation_id", "turn", *columns]))
    with _open_ordered_labels(workspace, labels, wanted, where) as rows:
        start, pending = 0, rows.schema.empty_table()
        for batch in conversations:
            end = start + batch.num_rows
            while pending.num_rows == 0 or pending["rank"][-1].as_py() < end:
                try:
                    more = rows.read_next_batch()
                except StopIteration:
                    break
                _check_keys_increase(labels, pending, more)
                pending = pa.concat_tables([pending, pa.Table.from_batches([more])])
            inside = int(pc.sum(pc.less(pending["rank"], end)).as_py() or 0)
            yield batch, pending.slice(0, inside).drop_columns(["rank"])
            start, pending = end, pending.slice(inside)


@contextmanager
def _open_ordered_labels(
    workspace: Workspace, labels: str, columns: Sequence[str], where: str
) -> Iterator[pa.RecordBatchReader]:
    """Open the label rows, sorted by the position of their conversation (`rank`) and by `turn`."""
    with tempfile.TemporaryDirectory(prefix="drift-") as folder, duckdb.connect() as database:
        database.execute("SET memory_limit = ?", [_SORT_MEMORY])
        database.execute("SET temp_directory = ?", [folder])
        ids = _stream_ranks(workspace)
        database.register("ids", ids)
        database.execute("CREATE TABLE ranks AS SELECT * FROM ids")
        # DuckDB takes paths for patterns.
        shards = [glob.escape(str(path)) for path in workspace.shards(labels)]
        orphan = database.execute(
            "SELECT conversation_id FROM read_parquet($shards) "
            "ANTI JOIN ranks USING (conversation_id) LIMIT 1",
            {"shards": shards},
        ).fetchone()
        if orphan:
            raise UserError(
                f"{workspace.path(labels)} has labels of a conversation that is not in {TableName.CONVERSATIONS}: "
                f"{orphan[0]}. Make both tables from the same data."
            )
        names = ", ".join(f'l."{name}"' for name in columns)
        query = (
            f"SELECT {names}, r.rank FROM read_parquet($shards) l JOIN ranks r USING (conversation_id) "
            f"WHERE {where} ORDER BY r.rank, l.turn"
        )
        yield database.sql(query, params={"shards": shards}).to_arrow_reader(10_000)


def _stream_ranks(workspace: Workspace) -> pa.RecordBatchReader:
    """Return a stream of (conversation_id, rank); the rank is the conversation's position in its table."""
    schema = pa.schema([("conversation_id", pa.string()), ("rank", pa.int64())])

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in workspace.batches(TableName.CONVERSATIONS, ["conversation_id"], 50_000):
            ranks = pa.array(range(start, start + batch.num_rows), pa.int64())
            yield pa.RecordBatch.from_arrays([batch["conversation_id"], ranks], schema=schema)
            start += batch.num_rows

    return pa.RecordBatchReader.from_batches(schema, batches())


def _check_keys_increase(labels: str, before: pa.Table, rows: pa.RecordBatch) -> None:
    """Check that the keys of label rows strictly increase.

    Args:
        labels: name of the table, for the message.
        before: rows that end with the one right before `rows`; may be empty.
        rows: the rows to check.

    Raises:
        AccountingError: the rows are out of order.
        UserError: a turn has two labels.
    """
    columns = ["conversation_id", "rank", "turn"]
    last = before.slice(max(0, before.num_rows - 1)).select(columns)
    keys = pa.concat_tables([last, pa.Table.from_batches([rows]).select(columns)])
    steps = np.diff(keys["rank"].to_numpy() << 32 | keys["turn"].to_numpy().astype(np.int64))
    if (steps < 0).any():
        raise AccountingError(
            f"{labels} could not be put into the order of the conversations: a bug of the tool."
        )
    if (steps == 0).any():
        row = keys.slice(int(np.argmin(steps)), 1).to_pylist()[0]
        raise UserError(
            f"{labels} has two labels for turn {row['turn']} of conversation {row['conversation_id']}. "
            "Make the labels again."
        )
