"""Finds the rows that must not be published: rows of toxic conversations, and own logs with personal data.

Each row is joined with its conversation by `conversation_id`. A conversation counts as own logs unless its source is
known to be public.
"""

from __future__ import annotations

import csv
import glob
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import chain, islice

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from drift_data.chats.safe_text import escape_invisible
from drift_data.publish.cards.data import Origins, load_known_sources
from drift_data.publish.personal_data import scan_rows
from drift_data.schema import TableName
from drift_data.workspace import Manifest, UserError, Workspace

REFUSED_FILE = "publish/refused.csv"  # lists every row for which the last attempt was refused
_REFUSED_COLUMNS = ("table", "conversation_id", "turn", "column", "kind", "excerpt")
_BATCH_ROWS = 1_000
_ROWS_NAMED = 5  # number of refused rows that the message names

RefusedRow = tuple[str, str, int | None, str, str, str]  # in the order of _REFUSED_COLUMNS


def find_origins(
    workspace: Workspace, names: Mapping[str, str], lineage: Mapping[str, Manifest]
) -> tuple[Origins, Set[str]]:
    """Return where the rows come from, and the ids of the conversations that are somebody's own logs.

    Args:
        workspace: holds the tables and, if rows were mined from it, the table `conversations`.
        names: config → folder of each table.
        lineage: manifests of the tables and of everything they were made from. The manifest of `convert` names the
            source of rows whose conversation is not in `conversations` (data sets of ready pairs have no such table).
    """
    converted = {
        str(m.options["source"]) for m in lineage.values() if m.stage == "convert" and "source" in m.options
    }
    otherwise = converted.pop() if len(converted) == 1 else "unknown"
    with _open_joined_rows(workspace, names) as database:
        counts = database.execute(
            "SELECT coalesce(source, $otherwise), count(DISTINCT conversation_id) FROM joined "
            "GROUP BY 1 ORDER BY 1",
            {"otherwise": otherwise},
        ).fetchall()
        toxic, unflagged = database.execute(
            "SELECT count(*) FILTER (toxic), count(*) FILTER (toxic IS NULL) FROM joined"
        ).fetchall()[0]
        own = database.execute(
            "SELECT DISTINCT conversation_id FROM joined "
            "WHERE NOT list_contains($known, coalesce(source, $otherwise))",
            {"known": list(load_known_sources()), "otherwise": otherwise},
        ).fetchall()
    return Origins(dict(counts), toxic, unflagged), {row[0] for row in own}


def refuse_toxic(workspace: Workspace, names: Mapping[str, str]) -> None:
    """Refuse to publish if rows come from conversations flagged as toxic.

    Raises:
        UserError: there are such rows. The message names the first ones and the file that lists all.
    """
    with _open_joined_rows(workspace, names) as database:
        rows = database.execute(
            "SELECT config, conversation_id, turn FROM joined WHERE toxic ORDER BY ALL"
        ).fetchall()
    _refuse_rows(
        workspace,
        ((config, conversation, turn, "", "toxic", "") for config, conversation, turn in rows),
        "come from conversations that are flagged as toxic",
        "Leave those out (SET='clean.drop_toxic=true' with `make convert`, then label and seed again), or "
        "publish them on purpose with SET='publish.allow_toxic=true'.",
    )


def refuse_personal_data(
    workspace: Workspace, names: Mapping[str, str], own: Set[str], regions: Sequence[str]
) -> None:
    """Refuse to publish if rows of own logs hold addresses, numbers or keys.

    Args:
        workspace: holds the tables.
        names: config → folder of each table.
        own: ids of the conversations to search.
        regions: ISO countries, as in `personal_data.scan_text`.

    Raises:
        UserError: there are such rows. The message names the first ones, masked, and the file that lists all.
    """
    _refuse_rows(
        workspace,
        _find_personal_data(workspace, names, own, regions),
        "of own logs hold personal data or keys",
        "Take them out of the logs and run `make convert`, label and seed again, or publish them on purpose "
        "with SET='publish.allow_pii=true'.",
    )


def _find_personal_data(
    workspace: Workspace, names: Mapping[str, str], own: Set[str], regions: Sequence[str]
) -> Iterator[RefusedRow]:
    """Yield every finding of personal data in the rows of the given conversations."""
    ids = pa.array(sorted(own), pa.string())
    for config, name in names.items():
        rows = workspace.require(name).rows_out
        with tqdm(total=rows, desc=f"scan {config}", unit=" rows", mininterval=0.5, file=sys.stderr) as bar:
            for batch in workspace.batches(name, batch_size=_BATCH_ROWS):
                own_rows = batch.filter(pc.is_in(batch["conversation_id"], ids))
                for found in scan_rows(own_rows, regions):
                    yield config, found.conversation_id, found.turn, found.column, found.kind, found.excerpt
                bar.update(batch.num_rows)


def _refuse_rows(workspace: Workspace, findings: Iterable[RefusedRow], what: str, way_out: str) -> None:
    """Write the findings to REFUSED_FILE and raise a `UserError`; return if there are none."""
    path = workspace.root / REFUSED_FILE
    rows: dict[tuple[str, str, int | None], RefusedRow] = {}  # (config, id, turn) → first finding
    kinds: Counter[str] = Counter()
    waiting = iter(findings)
    first = next(waiting, None)
    if first is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_REFUSED_COLUMNS)
        for finding in chain([first], waiting):
            writer.writerow(finding)
            rows.setdefault(finding[:3], finding)
            kinds[finding[4]] += 1
    named = "; ".join(_describe_row(finding) for finding in islice(rows.values(), _ROWS_NAMED))
    more = f"; and {len(rows) - _ROWS_NAMED:,} more" if len(rows) > _ROWS_NAMED else ""
    counts = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items()))
    raise UserError(
        f"Nothing was published: {len(rows):,} rows {what} ({counts}): {named}{more}. All are in {path}. "
        f"{way_out}"
    )


def _describe_row(finding: RefusedRow) -> str:
    """Return one refused row as the message names it."""
    config, conversation, turn, column, kind, excerpt = finding
    inside = f", {kind} {excerpt} in {column}" if column else ""
    return f"{config} {escape_invisible(conversation, 80)} turn {turn}{inside}"


@contextmanager
def _open_joined_rows(workspace: Workspace, names: Mapping[str, str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database with the table `joined`: config, conversation_id, turn, source and toxic of every row."""
    with duckdb.connect() as database:
        database.execute("CREATE TABLE rows (config VARCHAR, conversation_id VARCHAR, turn INTEGER)")
        for config, name in names.items():
            database.execute(
                "INSERT INTO rows SELECT ?, conversation_id, turn FROM read_parquet(?)",
                [config, [glob.escape(str(path)) for path in workspace.shards(name)]],
            )
        conversations = [glob.escape(str(path)) for path in workspace.shards(TableName.CONVERSATIONS)]
        if conversations:
            database.execute(
                "CREATE TABLE joined AS SELECT r.*, c.source, c.toxic FROM rows r "
                "LEFT JOIN read_parquet(?) c USING (conversation_id)",
                [conversations],
            )
        else:
            database.execute(
                "CREATE TABLE joined AS SELECT *, NULL::VARCHAR AS source, NULL::BOOLEAN AS toxic FROM rows"
            )
        yield database
