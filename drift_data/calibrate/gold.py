"""Reads and checks gold, the labels to measure against: a file of labelled turns, or a label table of the workspace."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl
from polars.exceptions import PolarsError

from drift_data.labels.reviewer import REVIEW_STAGE
from drift_data.labels.tables import (
    KEY_COLUMNS,
    list_label_tables,
    read_labels,
    resolve_labels,
    select_strongest_item,
)
from drift_data.schema import LABELS
from drift_data.workspace import Manifest, UserError, Workspace, hash_file

GOLD_SUFFIXES: Final = (".csv", ".jsonl", ".ndjson", ".parquet")
GOLD_COLUMNS: Final = {
    "conversation_id": pl.String,
    "turn": pl.Int32,
    "label": pl.String,
    "item": pl.String,  # name of the turn's strongest item
    "strength": pl.Float64,
    "refusal": pl.Boolean,
}
_HASH_COLUMN = "conversation_hash"
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Gold:
    """Labelled turns to measure against, each turn once."""

    name: str  # file name without its folders, or folder of the label table
    rows: pl.DataFrame  # columns as in `GOLD_COLUMNS`; null where the source gives no value
    by_hash: bool = False  # the ids are WildChat's conversation_hash, which several conversations may share
    inputs: tuple[str, ...] = ()  # the label table, if the gold is one: an input of the stage
    files: Mapping[str, str] = field(default_factory=dict)  # file name → digest, if the gold is a file
    notes: tuple[str, ...] = ()  # caveats for readers of figures that are measured on this gold


def read_gold(workspace: Workspace, name: str) -> Gold:
    """Return labelled turns.

    Args:
        workspace: holds the table, if the gold is a table.
        name: a .csv, .jsonl, .ndjson or .parquet file with `conversation_id` (or `conversation_hash`), `turn`,
            `label`, and maybe `item`, `strength`, `refusal`; or a label table such as "labels/local" or
            "human:jo".

    Raises:
        UserError: there is no such file or table, or it does not hold labelled turns.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() in GOLD_SUFFIXES:
        if not path.is_file():
            raise UserError(f"GOLD={name}: there is no such file.")
        rows, by_hash = _check_rows(name, _read_file(path))
        return Gold(path.name, rows, by_hash, files={path.name: hash_file(path)})
    table = resolve_labels(name)
    manifest = workspace.manifest(table)
    if manifest is not None:
        return Gold(
            table,
            _read_label_table(workspace, table),
            inputs=(table,),
            notes=_describe_review_bias(table, manifest),
        )
    raise UserError(
        f"GOLD={name} is neither a file ending in {', '.join(GOLD_SUFFIXES)} nor a label table of {workspace.root}, which "
        f"has: {list_label_tables(workspace)}."
    )


def _read_file(path: Path) -> pl.DataFrame:
    """Return the rows of a file unchanged; all columns of a CSV are text."""
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path)
        if path.suffix.lower() == ".csv":
            return pl.read_csv(path, infer_schema=False)
        return pl.read_ndjson(path, infer_schema_length=None)
    except (PolarsError, OSError, UnicodeDecodeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"GOLD={path} cannot be read as {path.suffix[1:]}: {first:.300}") from error


def _check_rows(name: str, raw: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """Return the rows with the columns of `GOLD_COLUMNS`, and whether their ids are WildChat's hashes.

    Raises:
        UserError: a column is missing, a value cannot be used, or a turn has two labels.
    """
    identifier = next((column for column in ("conversation_id", _HASH_COLUMN) if column in raw.columns), None)
    missing = [column for column in ("turn", "label") if column not in raw.columns]
    if identifier is None:
        missing.insert(0, f"conversation_id (or {_HASH_COLUMN})")
    if identifier is None or missing:
        raise UserError(
            f"GOLD={name} lacks the columns {', '.join(missing)}. It has: {', '.join(raw.columns)[:300]}."
        )
    if not raw.height:
        raise UserError(f"GOLD={name} holds no row.")
    number = _trim_text(raw, "turn").cast(pl.Float64, strict=False)
    text = {column: _trim_text(raw, column) for column in (*GOLD_COLUMNS, identifier)}
    rows = raw.select(
        text[identifier].alias("conversation_id"),
        pl.when(number == number.floor()).then(number.cast(pl.Int32, strict=False)).alias("turn"),
        text["label"].str.to_uppercase().alias("label"),
        pl.when(text["item"].str.to_lowercase() != "none").then(text["item"]).alias("item"),
        text["strength"].cast(pl.Float64, strict=False).alias("strength"),
        text["refusal"]
        .str.to_lowercase()
        .replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean)
        .alias("refusal"),
    )
    for column, wanted in (
        ("conversation_id", "must not be empty"),
        ("turn", "must be a number, the index of the user's message in the conversation"),
    ):
        empty = rows.with_row_index().filter(pl.col(column).is_null())
        if empty.height:
            row = int(empty["index"][0])
            value = raw[identifier if column == "conversation_id" else column][row]
            raise UserError(
                f"GOLD={name}: {column} {wanted}; in row {row + 1} (and {empty.height - 1} more) it is {value!r:.60}."
            )
    rows, given = rows.filter(pl.col("label").is_not_null()), rows.height
    if not rows.height:
        raise UserError(f"GOLD={name}: no row has a label.")
    if rows.height < given:  # a person may still be filling the file in
        print(f"{name}: {given - rows.height:,} rows without a label are skipped", file=sys.stderr)
    strange = rows.filter(~pl.col("label").is_in(LABELS).fill_null(False))["label"].unique().sort()
    if len(strange):
        raise UserError(
            f"GOLD={name}: label must be one of {', '.join(LABELS)}; found "
            f"{', '.join(repr(value)[:40] for value in strange.to_list()[:5])}."
        )
    twice = rows.filter(rows.select(KEY_COLUMNS).is_duplicated())
    if twice.height:
        first = twice.row(0, named=True)
        raise UserError(
            f"GOLD={name} has two labels for one turn: turn {first['turn']} of {first['conversation_id']:.80} "
            f"({twice.height} such rows). Keep one of each."
        )
    return rows, identifier == _HASH_COLUMN


def _trim_text(raw: pl.DataFrame, column: str) -> pl.Expr:
    """Return a column as trimmed text, null where it is empty or the file does not have it."""
    if column not in raw.columns or raw.schema[column].is_nested():
        return pl.lit(None, pl.String)
    trimmed = pl.col(column).cast(pl.String).str.strip_chars()
    return pl.when(trimmed != "").then(trimmed)


def _read_label_table(workspace: Workspace, table: str) -> pl.DataFrame:
    """Return the rows of a label table with the columns of `GOLD_COLUMNS`."""
    item = select_strongest_item().struct
    return read_labels(workspace, table, ["items", "refusal"]).select(
        *KEY_COLUMNS,
        "label",
        item.field("name").alias("item"),
        item.field("strength").cast(pl.Float64).alias("strength"),
        "refusal",
    )


def _describe_review_bias(table: str, manifest: Manifest) -> tuple[str, ...]:
    """Return how a reviewer's labels bias figures: turns were picked, or the reviewer saw the judge's label."""
    if manifest.stage != REVIEW_STAGE:
        return ()
    picked, seen = (manifest.rows_out - manifest.made_by[name] for name in ("random", "blind"))
    notes = (
        f"{picked:,} of {manifest.rows_out:,} turns of {table} were picked (uncertain first, by a filter), not "
        "drawn at random, so figures that include them are biased. Quote the figures of the random sample on the "
        "page of `make review`.",
        f"{seen:,} of {manifest.rows_out:,} turns of {table} were decided with the judge's label in sight, "
        "so agreement is too high. `make review BLIND=1` hides the judge's label.",
    )
    return tuple(note for note, count in zip(notes, (picked, seen), strict=True) if count)
