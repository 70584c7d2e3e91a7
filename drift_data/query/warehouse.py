"""Opens an in-memory DuckDB database with views over the finished tables of a workspace.

`conversations`, `dsat` and the like show one table each. `labels`, `pairs`, `rollouts`, `evaluations`, `metrics` and
`dropped` show the tables of all judges and runs together, with columns that tell them apart. `requests` shows what
language models were asked and what they answered. The database reads nothing outside the workspace.
"""

from __future__ import annotations

import glob
import json
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from drift_data.labels.tables import find_latest_labels
from drift_data.llm.store import STORE_FILE
from drift_data.llm.store_table import StoredRequests
from drift_data.schema import DROPPED, DROPPED_RAW, LABELS, TableName, find_make_command
from drift_data.workspace import MANIFEST, Manifest, UserError, Workspace

# View → folder. `find_make_command` of the folder is the command that makes what the view shows.
_FOLDERS_OF_VIEWS = {
    **{
        name: name
        for name in (*TableName, "labels", "rollouts", "rewards", "pairs", "metrics", "health", "requests")
    },
    "current_labels": "labels",
    "evaluations": "eval",
    "simulated_truth": "simulated",
}
# Folders at the top of a workspace that hold parts of tables, or copies.
_FOLDERS_WITHOUT_TABLES = (".tmp", ".unfinished", "dropped")
# Last part of a run's folder → its view, where the view does not have the same name.
_VIEWS_OF_RUNS = {"eval": "evaluations"}
_JSON_COLUMNS = ("options", "inputs", "files", "dropped", "made_by", "results")  # of the table `manifests`

# Columns that tell apart the tables which a view shows together: name → its value in every row of one table.
AddedColumns = Mapping[str, str | int | None]


@dataclass(frozen=True)
class FinishedFolder:
    """A folder with a manifest, and the view that its rows belong to.

    Attributes:
        name: name of the folder in the workspace.
        manifest: the folder's manifest.
        view: name of the view.
        columns: columns that the view adds to the rows of this folder.
    """

    name: str
    manifest: Manifest
    view: str
    columns: AddedColumns


def find_finished_folders(workspace: Workspace) -> list[FinishedFolder]:
    """Return every folder of a workspace that has a manifest, in the order of their names."""
    found = []
    paths = {path for depth in range(1, 5) for path in workspace.root.glob("*/" * depth + MANIFEST)}
    for path in sorted(paths):
        parts = path.parent.relative_to(workspace.root).parts
        name = "/".join(parts)
        manifest = None if parts[0] in _FOLDERS_WITHOUT_TABLES else workspace.manifest(name)
        if manifest is not None:
            found.append(FinishedFolder(name, manifest, *_find_view(parts)))
    return found


def _find_view(parts: tuple[str, ...]) -> tuple[str, AddedColumns]:
    """Return the view that a folder's rows belong to, and the columns that the view adds.

    Args:
        parts: the folder's name in the workspace, split at each slash.
    """
    if parts[0] == "labels" and len(parts) == 2:
        return "labels", {"labels_of": parts[1]}
    if parts[0] == "runs" and len(parts) == 4:
        _, run, step, kind = parts
        iteration = int(step[4:]) if step.startswith("iter") and step[4:].isdecimal() else None
        columns: dict[str, str | int | None] = {"run": run, "iter": iteration}
        if kind in ("eval", "heldout"):
            columns["model"] = step if iteration is None else f"M{iteration}"
        return _VIEWS_OF_RUNS.get(kind, kind), columns
    return "_".join(parts), {}


def find_view_command(view: str) -> str | None:
    """Return the command that makes what a view shows; None: there is no such view."""
    folder = _FOLDERS_OF_VIEWS.get(view)
    return None if folder is None else find_make_command(folder)


def find_current_labels(workspace: Workspace) -> str | None:
    """Return the labels that `dsat` was mined from, such as "labels/local"; before mining, the labels made last.

    The answer is None when the workspace has no labels, or only labels of conversations that it no longer holds.
    """
    dsat = workspace.manifest(TableName.DSAT)
    for name in dsat.inputs if dsat else ():
        if name.startswith("labels/") and workspace.manifest(name):
            return name
    try:
        return find_latest_labels(workspace)
    except UserError:
        return None


def connect(workspace: Workspace) -> duckdb.DuckDBPyConnection:
    """Return an in-memory database with one view per finished table of the workspace.

    The database also has the views `current_labels` (as in `find_current_labels`), `labels_<judge>`, `dropped_<table>` and
    `funnel` (rows after each step), the table `manifests`, and the macros `wilson_low(k, n)` and `wilson_high(k, n)`
    (95 % interval of a share). SQL cannot reach files outside the workspace, the network, or extensions. A COPY could
    still overwrite files inside the workspace; `query.run_query` forbids it.

    Raises:
        UserError: a table's files do not have the columns they should have, or a manifest is broken.
    """
    folders = find_finished_folders(workspace)
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
            # DuckDB's default is a folder in the current directory.
            "temp_directory": str(Path(tempfile.gettempdir()) / f"drift-duckdb-{uuid.uuid4().hex}"),
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    selects = _collect_selects(workspace, folders)
    labels = find_current_labels(workspace)
    if labels is not None:
        selects["current_labels"] = selects["labels_" + labels.removeprefix("labels/")]
    _create_manifests(connection, folders)
    if (store := workspace.root / STORE_FILE).is_file():
        connection.register("requests", StoredRequests(store))
    for name, parts in selects.items():
        try:
            connection.execute(f"CREATE VIEW {quote_identifier(name)} AS {_join_selects(parts)}")
        except duckdb.Error as error:
            raise UserError(
                f"The files of {name} in {workspace.root} cannot be read: {error}. "
                "Delete the folder and make it again."
            ) from error
    connection.execute(f"CREATE VIEW funnel AS {_write_funnel(selects, labels)}")
    connection.execute(_WILSON_MACRO.format(name="wilson_low", sign="-"))
    connection.execute(_WILSON_MACRO.format(name="wilson_high", sign="+"))
    tables = (path(f.name) for f in folders for path in (workspace.path, workspace.dropped_path))
    allowed = {workspace.root.resolve(), *(table.resolve() for table in tables)}  # a table may be a link
    places = sorted({place for path in allowed for place in (str(path), glob.escape(str(path)))})
    connection.execute(f"SET allowed_directories = [{', '.join(map(quote_literal, places))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def list_view_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the names of all views and tables, quoted where SQL needs it."""
    rows = connection.execute(
        "SELECT view_name FROM duckdb_views() WHERE NOT internal UNION SELECT table_name FROM duckdb_tables()"
    ).fetchall()
    return sorted(quote_identifier(name) for (name,) in rows)


def quote_identifier(name: str) -> str:
    """Return a name for use in SQL, in quotes unless it is a plain word."""
    return name if name.isascii() and name.isidentifier() else '"' + name.replace('"', '""') + '"'


def quote_literal(value: str | int | None) -> str:
    """Return a value as an SQL literal."""
    if value is None:
        return "NULL::INTEGER"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _collect_selects(workspace: Workspace, folders: Iterable[FinishedFolder]) -> dict[str, list[str]]:
    """Return view → the SELECTs whose union it shows."""
    selects: dict[str, list[str]] = defaultdict(list)
    selects["dropped"] = [_EMPTY_DROPPED]
    for folder in folders:
        if shards := workspace.shards(folder.name):
            rows = _write_select(f"read_parquet({_quote_paths(shards)})", folder.columns)
            selects[folder.view].append(rows)
            if folder.view == "labels":
                selects[f"labels_{folder.columns['labels_of']}"].append(rows)
        if shards := sorted(workspace.dropped_path(folder.name).glob("part-*.parquet")):
            table = folder.view if "run" in folder.columns else folder.name
            name = "dropped_" + table.replace("/", "_")
            read = f"read_parquet({_quote_paths(shards)})"
            selects[name].append(_write_select(read, folder.columns))
            selects["dropped"].append(_write_select(read, {"table": table, **folder.columns}))
        if folder.view == "model":
            for place in (workspace.path(folder.name), workspace.path(folder.name).parent):
                path = place / "metrics.jsonl"
                if path.is_file() and path.stat().st_size:
                    read = (
                        f"read_json({_quote_paths([path])}, format = 'newline_delimited', sample_size = -1)"
                    )
                    selects["metrics"].append(_write_select(read, folder.columns))
    return selects


def _quote_paths(paths: Iterable[Path]) -> str:
    """Return a list of paths as SQL text. Characters that DuckDB would read as a pattern of several files are escaped."""
    return "[" + ", ".join(quote_literal(glob.escape(str(path.resolve()))) for path in paths) + "]"


def _write_select(source: str, columns: AddedColumns) -> str:
    """Return the SELECT of all rows of a source, with columns added before its own."""
    added = "".join(
        f"{quote_literal(value)} AS {quote_identifier(name)}, " for name, value in columns.items()
    )
    return f"SELECT {added}* FROM {source}"


def _join_selects(selects: Iterable[str]) -> str:
    """Return the union of SELECTs by column name; a column that one of them lacks is null there."""
    return " UNION ALL BY NAME ".join(selects)


def _create_manifests(connection: duckdb.DuckDBPyConnection, folders: Iterable[FinishedFolder]) -> None:
    """Make the table `manifests`, with one row for each finished folder; `_JSON_COLUMNS` are of the type JSON."""
    rows = []
    for folder in folders:
        values = folder.manifest.model_dump()
        rows.append(
            {"folder": folder.name} | values | {name: json.dumps(values[name]) for name in _JSON_COLUMNS}
        )
    table = pa.Table.from_pylist(rows, schema=_MANIFEST_COLUMNS)
    connection.register("incoming", table)
    casts = ", ".join(f"{name}::JSON AS {name}" for name in _JSON_COLUMNS)
    connection.execute(f"CREATE TABLE manifests AS SELECT * REPLACE ({casts}) FROM incoming")
    connection.unregister("incoming")


def _write_funnel(views: Collection[str], labels: str | None) -> str:
    """Return the SELECT of `funnel`: the number of rows after each step whose tables are there.

    Args:
        views: names of all views.
        labels: folder of the current labels, if there are any.
    """

    def every(*names: str) -> str:
        """Return the SQL of all rows of some views; empty when the first view is not there."""
        present = [f"SELECT 1 FROM {quote_identifier(name)}" for name in names if name in views]
        return f"({' UNION ALL '.join(present)})" if names[0] in views else ""

    dropped_labels = "dropped_" + labels.replace("/", "_") if labels else ""
    steps = {
        "rows read": every("conversations", "dropped_conversations"),
        "conversations": every("conversations"),
        "feedback turns": every("current_labels", dropped_labels),
        **{f"{label} turns": f"current_labels WHERE label = '{label}'" for label in LABELS if labels},
        "DSAT examples": every("dsat"),
        "SAT examples": every("sat"),
        "seed pairs": every("seed"),
        "preference pairs": every("preferences"),
    }
    counts = ["SELECT 0 AS position, '' AS step, '' AS run, 0 AS iter, 0 AS rows WHERE false"]
    for position, (step, rows) in enumerate(steps.items()):
        if rows:
            counts.append(f"SELECT {position}, '{step}', NULL, NULL, count(*) FROM {rows}")
    of_runs = {  # step → (view, what is counted); an example has one or more rollouts and gives at most one pair
        "rollouts": ("rollouts", "count(*)"),
        "examples sampled": ("rollouts", "count(DISTINCT (conversation_id, turn))"),
        "pairs kept": ("pairs", "count(*)"),
    }
    for position, (step, (view, count)) in enumerate(of_runs.items()):
        if view in views:
            counts.append(f"SELECT {position}, '{step}', run, iter, {count} FROM {view} GROUP BY run, iter")
    order = "run NULLS FIRST, iter NULLS FIRST, position"
    return f"SELECT step, run, iter, rows FROM ({' UNION ALL '.join(counts)}) ORDER BY {order}"


# Columns of the table `manifests`.
_MANIFEST_COLUMNS = pa.schema(
    [
        ("folder", pa.string()),
        ("stage", pa.string()),
        ("tool", pa.string()),
        *[(name, pa.string()) for name in ("options", "inputs", "files")],
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        *[(name, pa.string()) for name in ("dropped", "made_by", "results", "digest")],
        ("seconds", pa.float64()),
        ("peak_memory_bytes", pa.int64()),
    ]
)
_SQL_TYPES = {pa.string(): "VARCHAR", pa.int32(): "INTEGER"}
# A SELECT without rows. It gives the view `dropped` its columns even when no row was dropped.
_EMPTY_DROPPED = (
    'SELECT NULL::VARCHAR AS "table", NULL::VARCHAR AS run, NULL::INTEGER AS iter, '
    + ", ".join(
        f"NULL::{_SQL_TYPES[field.type]} AS {field.name}"
        for field in pa.unify_schemas([DROPPED.remove_metadata(), DROPPED_RAW])
    )
    + " WHERE false"
)
# Wilson's 95 % interval of a share k/n. It is also right for small counts, which most models and languages have.
_WILSON_MACRO = """
CREATE MACRO {name}(k, n) AS CASE WHEN n > 0 THEN
    (k + 1.96 ** 2 / 2 {sign} 1.96 * sqrt(k * (n - k) / n + 1.96 ** 2 / 4)) / (n + 1.96 ** 2) END
"""
