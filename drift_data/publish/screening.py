"""Says which rows must not be published: those of toxic conversations, and own logs with personal data.

Rows are joined with their conversations by key. A conversation of a source that is not known to be public
counts as own logs. This module knows nothing of the Hub.
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
from drift_data.publish.cards.data import Origins, known_sources
from drift_data.publish.personal_data import scan_rows
from drift_data.schema import TableName
from drift_data.workspace import Manifest, UserError, Workspace

REFUSED = "publish/refused.csv"  # every row that stood in the way of the last attempt
_COLUMNS = ("table", "conversation_id", "turn", "column", "kind", "excerpt")
_BATCH = 1_000
_SHOWN = 5  # refused rows that the message names

Refused = tuple[str, str, int | None, str, str, str]  # _COLUMNS


def origins_of(
    workspace: Workspace, names: Mapping[str, str], lineage: Mapping[str, Manifest]
) -> tuple[Origins, Set[str]]:
    """Return where the rows come from, and the ids of the conversations that are somebody's own logs.

    Args:
        workspace: holds the tables and, where rows were mined from it, `conversations`.
        names: config → folder of the tables.
        lineage: manifests of all the tables were made from. What `convert` made says its source, for rows
            whose conversation is not in `conversations` (data sets of ready pairs have none).
    """
    converted = {
        str(m.options["source"]) for m in lineage.values() if m.stage == "convert" and "source" in m.options
    }
    otherwise = converted.pop() if len(converted) == 1 else "unknown"
    with _joined(workspace, names) as database:
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
            {"known": list(known_sources()), "otherwise": otherwise},
        ).fetchall()
    return Origins(dict(counts), toxic, unflagged), {row[0] for row in own}


def refuse_toxic(workspace: Workspace, names: Mapping[str, str]) -> None:
    """Stop when rows come from conversations flagged as toxic.

    Raises:
        UserError: it names the first rows and the file that lists all.
    """
    with _joined(workspace, names) as database:
        rows = database.execute(
            "SELECT config, conversation_id, turn FROM joined WHERE toxic ORDER BY ALL"
        ).fetchall()
    _refuse(
        workspace,
        ((config, conversation, turn, "", "toxic", "") for config, conversation, turn in rows),
        "come from conversations that are flagged as toxic",
        "Leave those out (SET='clean.drop_toxic=true' with `make convert`, then label and seed again), or "
        "publish them on purpose with SET='publish.allow_toxic=true'.",
    )


def refuse_personal_data(
    workspace: Workspace, names: Mapping[str, str], own: Set[str], regions: Sequence[str]
) -> None:
    """Stop when rows of own logs hold addresses, numbers or keys.

    Args:
        workspace: holds the tables.
        names: config → folder of the tables.
        own: ids of the conversations to search.
        regions: see `pii.scan_text`.

    Raises:
        UserError: it names the first rows, masked, and the file that lists all.
    """
    _refuse(
        workspace,
        _personal_data(workspace, names, own, regions),
        "of own logs hold personal data or keys",
        "Take them out of the logs and run `make convert`, label and seed again, or publish them on purpose "
        "with SET='publish.allow_pii=true'.",
    )


def _personal_data(
    workspace: Workspace, names: Mapping[str, str], own: Set[str], regions: Sequence[str]
) -> Iterator[Refused]:
    ids = pa.array(sorted(own), pa.string())
    for config, name in names.items():
        rows = workspace.require(name).rows_out
        with tqdm(total=rows, desc=f"scan {config}", unit=" rows", mininterval=0.5, file=sys.stderr) as bar:
            for batch in workspace.batches(name, batch_size=_BATCH):
                mine = batch.filter(pc.is_in(batch["conversation_id"], ids))
                for found in scan_rows(mine, regions):
                    yield config, found.conversation_id, found.turn, found.column, found.kind, found.excerpt
                bar.update(batch.num_rows)


def _refuse(workspace: Workspace, findings: Iterable[Refused], what: str, way_out: str) -> None:
    """Write findings to a file and raise, if there are any."""
    path = workspace.root / REFUSED
    rows: dict[tuple[str, str, int | None], Refused] = {}  # the first finding of each row
    kinds: Counter[str] = Counter()
    waiting = iter(findings)
    first = next(waiting, None)
    if first is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for finding in chain([first], waiting):
            writer.writerow(finding)
            rows.setdefault(finding[:3], finding)
            kinds[finding[4]] += 1
    named = "; ".join(_named(finding) for finding in islice(rows.values(), _SHOWN))
    more = f"; and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
    counts = ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items()))
    raise UserError(
        f"Nothing was published: {len(rows):,} rows {what} ({counts}): {named}{more}. All are in {path}. "
        f"{way_out}"
    )


def _named(finding: Refused) -> str:
    config, conversation, turn, column, kind, excerpt = finding
    inside = f", {kind} {excerpt} in {column}" if column else ""
    return f"{config} {escape_invisible(conversation, 80)} turn {turn}{inside}"


@contextmanager
def _joined(workspace: Workspace, names: Mapping[str, str]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database with `joined`: config, conversation_id, turn, source and toxic flag of every row."""
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
