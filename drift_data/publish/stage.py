"""Publishes the mined tables and the pairs of a run as one data set of the Hub: a config a table, one commit.

Tables that are incomplete or stale are refused here, rows that must not leave the house in `refuse`. What the
card says is `cards`' business, what the Hub is told and how it fails `hub`'s.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from drift_data.publish.cards.data import SPLITS, PublishedTable, Scan, render_card
from drift_data.publish.options import PublishOptions
from drift_data.schema import TableName
from drift_data.workspace import Manifest, TableWriter, UserError, Workspace, locate_run

TABLES = (TableName.DSAT, TableName.SAT, TableName.SEED)
STAGING = ".publish"  # folder of the workspace with what is being uploaded


def publish(
    workspace: Workspace, repo: str, options: PublishOptions, token: str | None, endpoint: str | None = None
) -> str:
    """Upload `dsat`, `sat`, `seed` and the pairs of `options.run` with a data card. Equal content: no commit.

    Args:
        workspace: holds the finished tables.
        repo: owner/name of a data-set repository, made when it is not there.
        options: what may be published, and how it is seen.
        token: with write access. It is neither kept nor shown.
        endpoint: of the Hub; None is what `huggingface_hub` takes by itself.

    Returns:
        The address of the commit that holds the tables.

    Raises:
        UserError: no token, a table is missing, stale or damaged, rows must stay here, or the Hub refused.
    """
    from drift_data.publish import hub
    from drift_data.publish import screening as refuse

    token = hub.checked_token(token)
    hub.check_repo(repo)
    with workspace.lock():
        (workspace.root / refuse.REFUSED).unlink(missing_ok=True)  # of an earlier attempt
        names = _names(workspace, options.run)
        lineage = workspace.lineage(list(names.values()))
        tables = [_table(workspace, config, name, lineage[name]) for config, name in names.items()]
        if not any(sum(table.rows.values()) for table in tables):
            raise UserError(
                f"{', '.join(names)} in {workspace.root} have no rows: there is nothing to publish."
            )
        origins, own = refuse.origins_of(workspace, names, lineage)
        if not options.allow_toxic:
            refuse.refuse_toxic(workspace, names)
        scan: Scan = "not_needed" if not own else "skipped" if options.allow_pii else "clean"
        if scan == "clean":
            refuse.refuse_personal_data(workspace, names, own, options.phone_regions)
        staging = workspace.root / STAGING
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        try:
            for table in tables:
                _stage(workspace, table, staging / table.config)
            card = render_card(repo, tables, lineage, origins, scan, options.licence)
            (staging / "README.md").write_text(card, encoding="utf-8")
            done = hub.upload(
                staging,
                repo,
                kind="dataset",
                owned=[*(f"{name}/" for name in TABLES), "pairs-"],
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


def _names(workspace: Workspace, run: str | None) -> dict[str, str]:
    """Return config → folder of what is published: the mined tables and every iteration's pairs of a run.

    A workspace of ready pairs (UltraFeedback) has no mined tables, and its pairs are published by their owner:
    there only what a run made of them is.
    """
    ready = (
        workspace.manifest(TableName.PREFERENCES) is not None and workspace.manifest(TableName.DSAT) is None
    )
    names = {} if ready else {name.value: name.value for name in TABLES}
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


def _table(workspace: Workspace, config: str, name: str, manifest: Manifest) -> PublishedTable:
    """Look at a table's files: all there, readable, as many rows as its manifest says, a known split each."""
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


def _stage(workspace: Workspace, table: PublishedTable, folder: Path) -> None:
    """Write a table's rows into one folder a split, as a stream; a split without rows gets none."""
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
