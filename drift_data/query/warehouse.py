"""DuckDB views over the finished tables of a workspace. It knows where tables lie, not how they are made.

The database is in memory and reads nothing outside the workspace. `conversations`, `dsat`, … are single
tables; `labels`, `pairs`, `rollouts`, `evaluations`, `metrics` and `dropped` put all judges, runs and tables
together, with columns that tell them apart. `requests` is what language models were asked and answered.
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

from drift_data.labels.tables import latest_labels
from drift_data.llm.store import STORE_FILE
from drift_data.llm.store_table import StoredRequests
from drift_data.schema import DROPPED, DROPPED_RAW, LABELS, TableName, find_make_command
from drift_data.workspace import MANIFEST, Manifest, UserError, Workspace

# View → a folder whose command makes what the view shows.
_FOLDERS_OF_VIEWS = {
    **{
        name: name
        for name in (*TableName, "labels", "rollouts", "rewards", "pairs", "metrics", "health", "requests")
    },
    "current_labels": "labels",
    "evaluations": "eval",
    "simulated_truth": "simulated",
}
_NOT_TABLES = (
    ".tmp",
    ".unfinished",
    "dropped",
)  # folders at the top of a workspace that hold copies or parts of tables
_RUN_VIEWS = {"eval": "evaluations"}  # other folders of a run give their own name to the view
_JSON = ("options", "inputs", "files", "dropped", "made_by", "results")

Literals = Mapping[str, str | int | None]


@dataclass(frozen=True)
class Folder:
    """A finished folder: its name in the workspace, the view it belongs to, and what tells it apart there."""

    name: str
    manifest: Manifest
    view: str
    columns: Literals


def finished(workspace: Workspace) -> list[Folder]:
    """Return every folder with a manifest, in the order of their names."""
    found = []
    paths = {path for depth in range(1, 5) for path in workspace.root.glob("*/" * depth + MANIFEST)}
    for path in sorted(paths):
        parts = path.parent.relative_to(workspace.root).parts
        name = "/".join(parts)
        manifest = None if parts[0] in _NOT_TABLES else workspace.manifest(name)
        if manifest is not None:
            found.append(Folder(name, manifest, *_view(parts)))
    return found


def _view(parts: tuple[str, ...]) -> tuple[str, Literals]:
    """Return the view that a folder's rows belong to, and the columns that tell them apart there."""
    if parts[0] == "labels" and len(parts) == 2:
        return "labels", {"labels_of": parts[1]}
    if parts[0] == "runs" and len(parts) == 4:
        _, run, step, kind = parts
        iteration = int(step[4:]) if step.startswith("iter") and step[4:].isdecimal() else None
        columns: dict[str, str | int | None] = {"run": run, "iter": iteration}
        if kind in ("eval", "heldout"):
            columns["model"] = step if iteration is None else f"M{iteration}"
        return _RUN_VIEWS.get(kind, kind), columns
    return "_".join(parts), {}


def find_view_command(view: str) -> str | None:
    """Return the command that makes what a view shows; None for a name that is not known as a view."""
    folder = _FOLDERS_OF_VIEWS.get(view)
    return None if folder is None else find_make_command(folder)


def current_labels(workspace: Workspace) -> str | None:
    """Return the labels that `dsat` was mined from, e.g. "labels/local"; before mining, the last made."""
    dsat = workspace.manifest(TableName.DSAT)
    for name in dsat.inputs if dsat else ():
        if name.startswith("labels/") and workspace.manifest(name):
            return name
    try:
        return latest_labels(workspace)
    except UserError:  # there are none, or only those of conversations that were here before
        return None


def connect(workspace: Workspace) -> duckdb.DuckDBPyConnection:
    """Return an in-memory database with one view per finished table of the workspace.

    Besides the tables: `current_labels` (those that were mined, or the last made), `labels_<judge>`,
    `dropped_<table>`, `manifests`, `funnel` (rows after each step), and the macros `wilson_low(k, n)` and
    `wilson_high(k, n)` (95 % interval of a share). Files outside the workspace, the network and extensions
    are out of reach. A COPY could still overwrite files inside the workspace: `query.run_query` forbids that.

    Raises:
        UserError: a table's files do not have the columns they should have, or a manifest is broken.
    """
    folders = finished(workspace)
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
            # the default is a folder in the current directory
            "temp_directory": str(Path(tempfile.gettempdir()) / f"drift-duckdb-{uuid.uuid4().hex}"),
        },
    )
    connection.execute("SET TimeZone = 'UTC'")
    selects = _selects(workspace, folders)
    labels = current_labels(workspace)
    if labels is not None:
        selects["current_labels"] = selects["labels_" + labels.removeprefix("labels/")]
    _create_manifests(connection, folders)
    if (store := workspace.root / STORE_FILE).is_file():
        connection.register("requests", StoredRequests(store))
    for name, parts in selects.items():
        try:
            connection.execute(f"CREATE VIEW {identifier(name)} AS {_union(parts)}")
        except duckdb.Error as error:
            raise UserError(
                f"The files of {name} in {workspace.root} cannot be read: {error}. "
                "Delete the folder and make it again."
            ) from error
    connection.execute(f"CREATE VIEW funnel AS {_funnel(selects, labels)}")
    connection.execute(_WILSON.format(name="wilson_low", sign="-"))
    connection.execute(_WILSON.format(name="wilson_high", sign="+"))
    tables = (path(f.name) for f in folders for path in (workspace.path, workspace.dropped_path))
    allowed = {workspace.root.resolve(), *(table.resolve() for table in tables)}  # a table may be a link
    places = sorted({place for path in allowed for place in (str(path), glob.escape(str(path)))})
    connection.execute(f"SET allowed_directories = [{', '.join(map(literal, places))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def view_names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return what can stand after FROM, as it has to be written."""
    rows = connection.execute(
        "SELECT view_name FROM duckdb_views() WHERE NOT internal UNION SELECT table_name FROM duckdb_tables()"
    ).fetchall()
    return sorted(identifier(name) for (name,) in rows)


def identifier(name: str) -> str:
    """Return a name as SQL needs it: quoted unless it is a plain word."""
    return name if name.isascii() and name.isidentifier() else '"' + name.replace('"', '""') + '"'


def literal(value: str | int | None) -> str:
    """Return a value as SQL text."""
    if value is None:
        return "NULL::INTEGER"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _selects(workspace: Workspace, folders: Iterable[Folder]) -> dict[str, list[str]]:
    """Return view → the SELECTs it is the union of."""
    selects: dict[str, list[str]] = defaultdict(list)
    selects["dropped"] = [_NO_DROPS]
    for folder in folders:
        if shards := workspace.shards(folder.name):
            rows = _select(f"read_parquet({_list(shards)})", folder.columns)
            selects[folder.view].append(rows)
            if folder.view == "labels":
                selects[f"labels_{folder.columns['labels_of']}"].append(rows)
        if shards := sorted(workspace.dropped_path(folder.name).glob("part-*.parquet")):
            table = folder.view if "run" in folder.columns else folder.name
            name = "dropped_" + table.replace("/", "_")
            read = f"read_parquet({_list(shards)})"
            selects[name].append(_select(read, folder.columns))
            selects["dropped"].append(_select(read, {"table": table, **folder.columns}))
        if folder.view == "model":
            for file in (workspace.path(folder.name), workspace.path(folder.name).parent):
                path = file / "metrics.jsonl"
                if path.is_file() and path.stat().st_size:
                    read = f"read_json({_list([path])}, format = 'newline_delimited', sample_size = -1)"
                    selects["metrics"].append(_select(read, folder.columns))
    return selects


def _list(paths: Iterable[Path]) -> str:
    """Return paths as SQL text; what DuckDB would read as a pattern of several files is escaped."""
    return "[" + ", ".join(literal(glob.escape(str(path.resolve()))) for path in paths) + "]"


def _select(source: str, columns: Literals) -> str:
    added = "".join(f"{literal(value)} AS {identifier(name)}, " for name, value in columns.items())
    return f"SELECT {added}* FROM {source}"


def _union(selects: Iterable[str]) -> str:
    return " UNION ALL BY NAME ".join(selects)


def _create_manifests(connection: duckdb.DuckDBPyConnection, folders: Iterable[Folder]) -> None:
    """Make the table `manifests`: one row a finished folder; options, inputs … are JSON."""
    rows = []
    for folder in folders:
        values = folder.manifest.model_dump()
        rows.append({"folder": folder.name} | values | {name: json.dumps(values[name]) for name in _JSON})
    table = pa.Table.from_pylist(rows, schema=_MANIFESTS)
    connection.register("incoming", table)
    casts = ", ".join(f"{name}::JSON AS {name}" for name in _JSON)
    connection.execute(f"CREATE TABLE manifests AS SELECT * REPLACE ({casts}) FROM incoming")
    connection.unregister("incoming")


def _funnel(views: Collection[str], labels: str | None) -> str:
    """Return the SELECT of the rows after each step, for the steps whose tables are there."""

    def every(*names: str) -> str:
        """Return the rows of all these views, or nothing when the first is not there."""
        present = [f"SELECT 1 FROM {identifier(name)}" for name in names if name in views]
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
    of_runs = {  # step → view, and what of it is counted; one example has one pair and one or more rollouts
        "rollouts": ("rollouts", "count(*)"),
        "examples sampled": ("rollouts", "count(DISTINCT (conversation_id, turn))"),
        "pairs kept": ("pairs", "count(*)"),
    }
    for position, (step, (view, count)) in enumerate(of_runs.items()):
        if view in views:
            counts.append(f"SELECT {position}, '{step}', run, iter, {count} FROM {view} GROUP BY run, iter")
    order = "run NULLS FIRST, iter NULLS FIRST, position"
    return f"SELECT step, run, iter, rows FROM ({' UNION ALL '.join(counts)}) ORDER BY {order}"


_MANIFESTS = pa.schema(
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
_NO_DROPS = (
    'SELECT NULL::VARCHAR AS "table", NULL::VARCHAR AS run, NULL::INTEGER AS iter, '
    + ", ".join(
        f"NULL::{_SQL_TYPES[field.type]} AS {field.name}"
        for field in pa.unify_schemas([DROPPED.remove_metadata(), DROPPED_RAW])
    )
    + " WHERE false"
)
# Wilson's interval of a share k/n at 95 %: honest for the small counts that most models and languages have.
_WILSON = """
CREATE MACRO {name}(k, n) AS CASE WHEN n > 0 THEN
    (k + 1.96 ** 2 / 2 {sign} 1.96 * sqrt(k * (n - k) / n + 1.96 ** 2 / 4)) / (n + 1.96 ** 2) END
"""
