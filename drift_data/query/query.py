"""Runs SQL over a workspace's views, and shows the rows in the terminal or saves them to a file."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from drift_data.chats.safe_text import escape_invisible
from drift_data.query.warehouse import connect, find_view_command, list_view_names, quote_literal
from drift_data.workspace import UserError, Workspace, replace_file

MAX_ROWS_SHOWN = 50
ALL_ROWS_HINT = "OUT=file.csv writes all"  # in Make's words, which the stage translates for the command
_CELL_CHARACTERS = 120  # most characters of a cell that are shown
_FOLDED_HEAD_CHARACTERS = 6  # in a line of the head of a column of numbers, where the terminal is narrow
_FORMATS_BY_ENDING = {".csv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}


def load_canned_queries(folder: Path) -> dict[str, str]:
    """Return name → SQL of the `*.sql` files in a folder. The first line of each file says what the query shows."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.sql"))}


def describe_query(sql: str) -> str:
    """Return what a canned query shows, by its first line."""
    return sql.splitlines()[0].removeprefix("--").strip()


def run_query(workspace: Workspace, sql: str, limit: int | None = None) -> pa.Table:
    """Return the rows of one SELECT over the workspace's views.

    Args:
        workspace: holds the tables.
        sql: one SELECT, SHOW, DESCRIBE or SUMMARIZE.
        limit: most rows to return; None: all.

    Raises:
        UserError: the SQL is wrong, is not one SELECT, or asks for a table that is not there.
    """
    with _open_result(workspace, sql) as relation:
        rows = relation if limit is None else relation.limit(limit)
        return rows.to_arrow_table()


def save_query(workspace: Workspace, sql: str, out: Path) -> int:
    """Write the rows of one SELECT to a .csv, .parquet, .json (an array) or .jsonl file; return their number.

    Raises:
        UserError: the query fails as in `run_query`, the file's ending is unknown, or its folder is missing.
    """
    kind = _FORMATS_BY_ENDING.get(out.suffix.lower())
    if kind is None:
        raise UserError(f"OUT={out}: the name must end in one of {', '.join(_FORMATS_BY_ENDING)}.")
    if not out.parent.is_dir():
        raise UserError(f"OUT={out}: there is no folder {out.parent}. Make it first, or choose another.")
    options = f"FORMAT {kind}" + (", ARRAY true" if out.suffix.lower() == ".json" else "")
    with tempfile.TemporaryDirectory(prefix="drift-query-") as folder:
        spool = Path(folder) / "rows.arrow"
        rows = _spool_rows(workspace, sql, spool)
        with duckdb.connect(":memory:") as writer, pa.memory_map(str(spool)) as file:
            writer.register("result", pa.ipc.open_file(file).read_all())
            with replace_file(out) as part:
                writer.execute(f"COPY (FROM result) TO {quote_literal(str(part))} ({options})")
    return rows


def _spool_rows(workspace: Workspace, sql: str, path: Path) -> int:
    """Write the rows of one SELECT to an Arrow file, a batch in memory at a time; return their number.

    The file keeps two databases apart: a stream from one into the other can deadlock when an error occurs.
    """
    with _open_result(workspace, sql) as relation, tqdm(desc="query", unit="row", mininterval=0.5) as bar:
        reader = relation.to_arrow_reader(10_000)
        with pa.ipc.new_file(str(path), reader.schema) as writer:
            for batch in _iter_batches(reader):
                writer.write_batch(batch)
                bar.update(batch.num_rows)
        return int(bar.n)


def _iter_batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield the batches that DuckDB streams.

    Raises:
        duckdb.Error: the query failed while its rows were read. Arrow passes these errors on as `OSError`.
    """
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except OSError as error:
            raise duckdb.Error(str(error)) from error
        yield batch


def show_query(
    workspace: Workspace,
    sql: str,
    console: Console | None = None,
    rows: int = MAX_ROWS_SHOWN,
    hint: str = ALL_ROWS_HINT,
) -> None:
    """Print the first rows of one SELECT, as `print_table` does.

    Raises:
        UserError: the query fails as in `run_query`.
    """
    print_table(run_query(workspace, sql, rows + 1), console, rows, hint)


def print_table(
    table: pa.Table,
    console: Console | None = None,
    rows: int = MAX_ROWS_SHOWN,
    hint: str = ALL_ROWS_HINT,
) -> None:
    """Print the first rows of a table. Long cells are cut, and control characters are spelled out.

    Args:
        table: the rows, and at least one more than `rows` if there are more.
        console: where to print; None: the terminal.
        rows: most rows to print.
        hint: tells the user how to get all rows; printed when there are more.
    """
    shown = Table()
    columns = [
        [_format_cell(value) for value in column.to_pylist()] for column in table.slice(0, rows).columns
    ]
    console = console or Console()
    widths = [max(map(len, cells), default=0) for cells in columns]
    heads = [escape_invisible(name, _CELL_CHARACTERS) for name in table.schema.names]
    # A column takes 3 characters more than its text, and the left border takes one.
    is_narrow = console.width < 1 + sum(
        max(len(head), width) + 3 for head, width in zip(heads, widths, strict=True)
    )
    for field, head, width in zip(table.schema, heads, widths, strict=True):
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        # In a terminal that is too narrow, rich narrows the columns that may wrap: here the columns of text. A number that
        # is cut is wrong, so a column of numbers stays as wide as its longest number, and its head is folded.
        shown.add_column(
            Text(head, overflow="fold", no_wrap=False),
            justify="right" if number else "left",
            no_wrap=number,
            min_width=width if number else None,
            max_width=max(width, _FOLDED_HEAD_CHARACTERS) if number and is_narrow else None,
        )
    for row in zip(*columns, strict=True):
        # Every cell is one line. The cells of text that are longer than their column end in "…".
        shown.add_row(*(Text(cell, overflow="ellipsis", no_wrap=True) for cell in row))
    console.print(shown)
    many = table.num_rows > rows
    console.print(Text(f"the first {rows} rows; {hint}" if many else f"{table.num_rows} row(s)"))


def _format_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape_invisible(str(value), _CELL_CHARACTERS)


@contextmanager
def _open_result(workspace: Workspace, sql: str) -> Iterator[duckdb.DuckDBPyRelation]:
    """Yield the relation of one SELECT.

    Raises:
        UserError: DuckDB fails, here or while the caller reads the rows; or there is no workspace.
    """
    if not workspace.root.is_dir():
        raise UserError(
            f"There is no workspace {workspace.root}. Choose one with WORK=, or make one: `make demo`."
        )
    with connect(workspace) as connection:
        try:
            yield connection.sql(_check_one_select(connection, sql))
        except duckdb.Error as error:
            raise UserError(_explain_error(connection, workspace, str(error))) from error


def _check_one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Check that the SQL is one SELECT, and return it without its semicolon.

    Raises:
        UserError: the SQL is not one SELECT; other statements could write files.
    """
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UserError(
            f"A query is one SELECT (or SHOW, DESCRIBE, SUMMARIZE), not: {escape_invisible(sql, 200)}. "
            "To write the rows to a file use OUT=."
        )
    query = statements[0].query.strip().rstrip(";")
    if re.search(r"\bcopy\b", query, re.IGNORECASE):
        # DuckDB counts WITH x AS (COPY …) as a SELECT, although it writes a file. Inside brackets DuckDB refuses such a
        # statement while planning, and EXPLAIN only plans.
        connection.execute(f"EXPLAIN SELECT * FROM (\n{query}\n)")
    return query


def _explain_error(connection: duckdb.DuckDBPyConnection, workspace: Workspace, message: str) -> str:
    """Return DuckDB's message with what helps the user: the command that makes a missing table, and the views."""
    views = ", ".join(list_view_names(connection))
    missing = re.search(r'Table with name "?(\w+)"? does not exist', message)
    view = missing[1].lower() if missing else ""
    if command := find_view_command(view):
        name = view.removeprefix("current_")  # people know `current_labels` as their labels
        return f"{workspace.root} has no {name} yet: `{command}` first. Views that are there: {views}."
    shown = escape_invisible(message, 2_000, keep="\n")
    return f"{shown}\nViews that are there: {views}."
