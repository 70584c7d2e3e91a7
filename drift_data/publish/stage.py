"""Publishes the mined tables and the pairs of a run as one data set on the Hub: one config a table, in one commit.

This module refuses tables that are incomplete or stale; `screening.py` refuses rows that must not be published.
`cards/data.py` writes the card and `hub.py` uploads.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from drift_data.mine.rules import MINED_TABLES
from drift_data.publish.cards.data import SPLITS, PublishedTable, Scan, render_dataset_card
from drift_data.publish.options import PublishOptions
from drift_data.schema import TableName
from drift_data.workspace import Manifest, TableWriter, UserError, Workspace, locate_run

STAGING_FOLDER = ".publish"  # folder of the workspace that holds the files during an upload


def publish_tables(
    workspace: Workspace, repo: str, options: PublishOptions, token: str | None, endpoint: str | None = None
) -> str:
    """Upload `dsat`, `sat`, `seed` and the pairs of `options.run` with a data card.

    If the repository has the same content already, no commit is made.

    Args:
        workspace: holds the finished tables.
        repo: owner/name of a data-set repository, which is created if it does not exist.
        options: what may be published, and who sees it.
        token: Hub token with write access. It is neither stored nor shown.
        endpoint: address of the Hub; None: the default of `huggingface_hub`.

    Returns:
        The address of the commit that holds the tables.

    Raises:
        UserError: there is no token; a table is missing, stale or damaged; rows must not be published; or the Hub
            refused.
    """
    from drift_data.publish import hub, screening

    token = hub.require_token(token)
    hub.check_repo_name(repo)
    with workspace.lock():
        (workspace.root / screening.REFUSED_FILE).unlink(missing_ok=True)  # an earlier attempt wrote it
        names = _find_tables(workspace, options.run)
        lineage = workspace.lineage(list(names.values()))
        tables = [_inspect_table(workspace, config, name, lineage[name]) for config, name in names.items()]
        if not any(sum(table.rows.values()) for table in tables):
            raise UserError(
                f"{', '.join(names)} in {workspace.root} have no rows: there is nothing to publish."
            )
        origins, own = screening.find_origins(workspace, names, lineage)
        if not options.allow_toxic:
            screening.refuse_toxic(workspace, names)
        scan: Scan = "not_needed" if not own else "skipped" if options.allow_pii else "clean"
        if scan == "clean":
            screening.refuse_personal_data(workspace, names, own, options.phone_regions)
        staging = workspace.root / STAGING_FOLDER
        shutil.rmtree(staging, ignore_errors=True)  # a killed run leaves it behind
        try:
            for table in tables:
                _write_splits(workspace, table, staging / table.config)
            card = render_dataset_card(repo, tables, lineage, origins, scan, options.licence)
            (staging / "README.md").write_text(card, encoding="utf-8")
            done = hub.upload_folder(
                staging,
                repo,
                kind="dataset",
                owned_prefixes=[*(f"{name}/" for name in MINED_TABLES), "pairs-"],
                private=options.private,
                message=f"Publish {', '.join(names)}",
                token=token,
                endpoint=endpoint,
            )
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    seen = "private" if done.private else "public"
    what = "published" if done.changed else "nothing to do, the same content is there already"
    print(
        f"publish: {what}: {repo} ({seen}), {sum(sum(t.rows.values()) for t in tables):,} rows",
        file=sys.stderr,
    )
    return done.url


def _find_tables(workspace: Workspace, run: str | None) -> dict[str, str]:
    """Return config → folder of all tables to publish: the mined tables and the pairs of each iteration of a run.

    A workspace of ready pairs (UltraFeedback) has no mined tables, and the ready pairs are published by their owner
    already. From such a workspace only the pairs of a run are published.
    """
    ready = (
        workspace.manifest(TableName.PREFERENCES) is not None and workspace.manifest(TableName.DSAT) is None
    )
    names = {} if ready else {name.value: name.value for name in MINED_TABLES}
    if run is None and ready:
        raise UserError(
            f"{workspace.root} holds the preferences of another data set and nothing mined. Give RUN=name to "
            "publish the pairs that a run made of them."
        )
    if run is None:
        return names
    found = {
        f"pairs-{folder.parent.name}": folder.relative_to(workspace.root).as_posix()
        for folder in sorted(workspace.path(locate_run(run)).glob("iter*/pairs"))
    }
    if not found:
        runs = sorted(path.name for path in workspace.path("runs").glob("*"))
        raise UserError(
            f"Run {run!r} has no pairs in {workspace.path('runs')}. Runs there: {', '.join(runs) or 'none'}. "
            "Give RUN=name, or leave it out to publish the mined tables only."
        )
    return names | found


def _inspect_table(workspace: Workspace, config: str, name: str, manifest: Manifest) -> PublishedTable:
    """Return a table with its row counts, after a check of its files.

    Raises:
        UserError: a file is missing or unreadable, the number of rows differs from the manifest, or a row has an
            unknown split.
    """
    rows = dict.fromkeys(SPLITS, 0)
    target = f"Delete {workspace.path(name)} and run `make {manifest.stage}` again."
    shards = workspace.shards(name)
    if not shards:
        raise UserError(f"{workspace.path(name)} has no Parquet file. {target}")
    try:
        schema = pq.read_schema(shards[0]).remove_metadata()
        for batch in workspace.batches(name, ["split"], 100_000):
            for count in pc.value_counts(batch["split"]).to_pylist():
                rows[count["values"]] += count["counts"]
    except KeyError as error:
        raise UserError(f"{workspace.path(name)} has rows of the unknown split {error}. {target}") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"A Parquet file in {workspace.path(name)} cannot be read: {error}. {target}"
        ) from None
    if sum(rows.values()) != manifest.rows_out:
        raise UserError(
            f"{workspace.path(name)} is not complete: {sum(rows.values()):,} rows in {len(shards)} files, "
            f"but its manifest says {manifest.rows_out:,}. {target}"
        )
    return PublishedTable(config, name, schema, rows)


def _write_splits(workspace: Workspace, table: PublishedTable, folder: Path) -> None:
    """Write a table's rows as a stream into one folder a split; a split without rows gets no folder."""
    writers = {split: TableWriter(folder / split, table.schema) for split in SPLITS if table.rows[split]}
    total = sum(table.rows.values())
    with tqdm(
        total=total, desc=f"stage {table.config}", unit=" rows", mininterval=0.5, file=sys.stderr
    ) as bar:
        for batch in workspace.batches(table.name):
            for split, writer in writers.items():
                writer.write(batch.filter(pc.equal(batch["split"], split)))
            bar.update(batch.num_rows)
    for writer in writers.values():
        writer.close()
