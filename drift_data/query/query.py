"""Runs SQL over a workspace and shows or saves what comes out. It knows no table: `warehouse` does."""

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

from drift_data.chats.safe_text import visible
from drift_data.query.warehouse import connect, find_view_command, literal, view_names
from drift_data.workspace import UserError, Workspace, replaced_file

ROWS_SHOWN = 50
ALL_ROWS_HINT = "OUT=file.csv writes all"  # in Make's words, which the stage translates for the command
_CELL = 120  # characters of a cell that are shown
_FORMATS = {".csv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "json"}


def canned_queries(folder: Path) -> dict[str, str]:
    """Return name → SQL of the `*.sql` files in a folder; the first line of each says what it shows."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.sql"))}


def describe_query(sql: str) -> str:
    """Return what a canned query says of itself in its first line."""
    return sql.splitlines()[0].removeprefix("--").strip()


def run_query(workspace: Workspace, sql: str, limit: int | None = None) -> pa.Table:
    """Return the rows of one SELECT over the workspace's views, at most `limit` of them.

    Raises:
        UserError: the SQL is wrong, is not one SELECT, or asks for a table that is not there.
    """
    with _result(workspace, sql) as relation:
        rows = relation if limit is None else relation.limit(limit)
        return rows.to_arrow_table()


def save_query(workspace: Workspace, sql: str, out: Path) -> int:
    """Write the rows of one SELECT to a .csv, .parquet, .json (an array) or .jsonl file; return their number.

    Raises:
        UserError: as `run_query`; or the file's ending is unknown or its folder is missing.
    """
    kind = _FORMATS.get(out.suffix.lower())
    if kind is None:
        raise UserError(f"OUT={out}: the name must end in one of {', '.join(_FORMATS)}.")
    if not out.parent.is_dir():
        raise UserError(f"OUT={out}: there is no folder {out.parent}.")
    options = f"FORMAT {kind}" + (", ARRAY true" if out.suffix.lower() == ".json" else "")
    with tempfile.TemporaryDirectory(prefix="drift-query-") as folder:
        spool = Path(folder) / "rows.arrow"
        rows = _spool(workspace, sql, spool)
        with duckdb.connect(":memory:") as writer, pa.memory_map(str(spool)) as file:
            writer.register("result", pa.ipc.open_file(file).read_all())
            with replaced_file(out) as part:
                writer.execute(f"COPY (FROM result) TO {literal(str(part))} ({options})")
    return rows


def _spool(workspace: Workspace, sql: str, path: Path) -> int:
    """Write the rows of one SELECT to an Arrow file, a batch in memory at a time; return their number.

    The file stands between two databases: a stream from one to the other can deadlock on an error.
    """
    with _result(workspace, sql) as relation, tqdm(desc="query", unit="row", mininterval=0.5) as bar:
        reader = relation.to_arrow_reader(10_000)
        with pa.ipc.new_file(str(path), reader.schema) as writer:
            for batch in _batches(reader):
                writer.write_batch(batch)
                bar.update(batch.num_rows)
        return int(bar.n)


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield what DuckDB streams; its errors, which Arrow passes on as `OSError`, are DuckDB's again."""
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
    rows: int = ROWS_SHOWN,
    hint: str = ALL_ROWS_HINT,
) -> None:
    """Print the first rows of one SELECT. Raises `UserError` as `run_query` does."""
    print_table(run_query(workspace, sql, rows + 1), console, rows, hint)


def print_table(
    table: pa.Table,
    console: Console | None = None,
    rows: int = ROWS_SHOWN,
    hint: str = ALL_ROWS_HINT,
) -> None:
    """Print the first rows with clipped cells; what a terminal would obey in them is spelled out.

    Args:
        table: of which the first rows are printed.
        console: to print on; None: the terminal.
        rows: how many.
        hint: how a person gets all rows, said where there are more.
    """
    shown = Table()
    for field in table.schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        # a number is never cut, a text stays on one line
        shown.add_column(
            Text(visible(field.name, _CELL), overflow="fold"),
            justify="right" if number else "left",
            no_wrap=not number,
        )
    for row in zip(*(column.to_pylist() for column in table.slice(0, rows).columns), strict=True):
        shown.add_row(*(Text(_cell(value), overflow="ellipsis") for value in row))
    console = console or Console()
    console.print(shown)
    many = table.num_rows > rows
    console.print(Text(f"the first {rows} rows; {hint}" if many else f"{table.num_rows} row(s)"))


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return visible(str(value), _CELL)


@contextmanager
def _result(workspace: Workspace, sql: str) -> Iterator[duckdb.DuckDBPyRelation]:
    """Give the relation of one SELECT; DuckDB's errors, those while rows are read too, become the user's."""
    if not workspace.root.is_dir():
        raise UserError(
            f"There is no workspace {workspace.root}. Choose one with WORK=, or make one: `make demo`."
        )
    with connect(workspace) as connection:
        try:
            yield connection.sql(_one_select(connection, sql))
        except duckdb.Error as error:
            raise UserError(_explain(connection, workspace, str(error))) from error


def _one_select(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Return the SQL without its semicolon, or refuse what could write files."""
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UserError(
            f"A query is one SELECT (or SHOW, DESCRIBE, SUMMARIZE), not: {visible(sql, 200)}. "
            "To write the rows to a file use OUT=."
        )
    query = statements[0].query.strip().rstrip(";")
    if re.search(r"\bcopy\b", query, re.IGNORECASE):
        # WITH x AS (COPY …) is a SELECT that writes; refused inside brackets. A plan writes nothing.
        connection.execute(f"EXPLAIN SELECT * FROM (\n{query}\n)")
    return query


def _explain(connection: duckdb.DuckDBPyConnection, workspace: Workspace, message: str) -> str:
    """Return DuckDB's message with what helps: what makes the missing table, and the views there are."""
    views = ", ".join(view_names(connection))
    missing = re.search(r'Table with name "?(\w+)"? does not exist', message)
    view = missing[1].lower() if missing else ""
    if command := find_view_command(view):
        name = view.removeprefix("current_")  # people know `current_labels` as their labels
        return f"{workspace.root} has no {name} yet: `{command}` first. Views that are there: {views}."
    shown = visible(message, 2_000, keep="\n")
    return f"{shown}\nViews that are there: {views}."
