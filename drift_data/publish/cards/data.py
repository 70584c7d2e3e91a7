"""Renders the data card of published tables from their manifests; it does not read the tables.

Text from logs and manifests cannot become mark-up: it always goes through the template's `code` filter. All other text
is our own, and the rest are numbers. Nothing depends on the time or the machine, so equal tables have equal cards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any, Literal

import pyarrow as pa
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from drift_data.chats.safe_text import escape_invisible
from drift_data.schema import MESSAGES
from drift_data.workspace import Manifest

SPLITS = ("train", "test")
_TABLE_MEANINGS = {  # mined table → what one row is
    "dsat": "a reply that drew a complaint, and the complaint",
    "sat": "a reply that satisfied, and what the user said",
    "seed": "a reply that drew a complaint, and the revised reply that satisfied",
}
_PAIR_MEANING = "a preference pair to train on, in the form TRL takes"
_OWN_LOGS_NOTICE = "Own chat logs of whoever publishes this. No licence comes with them from elsewhere."
_SIZE_CATEGORIES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One config of the data set: a table of the workspace as it is uploaded."""

    config: str  # name of the config, such as "dsat" or "pairs-iter1"
    name: str  # folder of the table in the workspace
    schema: pa.Schema
    rows: Mapping[str, int]  # split → number of rows


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the rows come from."""

    sources: Mapping[str, int]  # source → number of conversations
    toxic_rows: int  # rows of conversations that the source flags as toxic
    unflagged_rows: int  # rows of conversations for which the source has no flag


# Outcome of the search for personal data: nothing was found, it was switched off, or there are no own logs to search.
Scan = Literal["clean", "skipped", "not_needed"]


@cache
def load_known_sources() -> Mapping[str, Mapping[str, str]]:
    """Return source → name, licence, notice and, if it is on the Hub, id of the public data sets `convert` reads."""
    known: dict[str, dict[str, str]] = yaml.safe_load(read_card_file("sources.yaml"))
    return known


def render_dataset_card(
    repo: str,
    tables: Sequence[PublishedTable],
    lineage: Mapping[str, Manifest],
    origins: Origins,
    scan: Scan,
    licence: str | None = None,
) -> str:
    """Return the README.md of a data-set repository, with the YAML that makes each table a config.

    Args:
        repo: owner/name.
        tables: the tables that are uploaded, with at least one row in all.
        lineage: manifests of the tables and of everything they were made from, inputs first.
        origins: where the rows come from.
        scan: outcome of the search for personal data.
        licence: the Hub's id of a licence; None: the licence of the source.
    """
    present = [table for table in tables if sum(table.rows.values())]
    return (
        make_card_environment()
        .get_template("dataset.md.jinja")
        .render(
            front_matter=yaml.safe_dump(
                _build_front_matter(repo, present, origins, licence), sort_keys=False, allow_unicode=True
            ),
            title=repo.split("/")[-1],
            repo=repo,
            tables=[
                {
                    "config": table.config,
                    "about": _TABLE_MEANINGS.get(table.config, _PAIR_MEANING),
                    "rows": table.rows,
                    "made_by": _describe_pairs(table, lineage),
                }
                for table in tables
            ],
            example=present[0].config,
            sources=[
                {
                    "conversations": count,
                    **load_known_sources().get(source, {"name": "own logs", "notice": _OWN_LOGS_NOTICE}),
                }
                for source, count in origins.sources.items()
            ],
            has_pairs=any(table.config not in _TABLE_MEANINGS for table in tables),
            labels=_describe_labels(lineage),
            mining=_describe_mining(lineage),
            steps=[
                {"name": name, "rows_in": m.rows_in, "rows_out": m.rows_out, "dropped": m.dropped}
                for name, m in lineage.items()
                if m.rows_in is not None or m.rows_out
            ],
            fields=_describe_fields(tables),
            origins=origins,
            scan=scan,
        )
    )


def make_card_environment() -> Environment:
    """Return the Jinja environment that renders a card."""
    environment = Environment(
        loader=PackageLoader("drift_data.publish.cards", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # a card is Markdown; the filter `code` escapes
    )
    environment.filters["code"] = format_as_code
    return environment


def format_as_code(text: object) -> str:
    """Return text as Markdown code on one line that fits into a table cell; cut after 120 characters."""
    shown = escape_invisible(str(text), 120).replace("`", "'").replace("|", "¦")
    return f"`{shown}`" if shown.strip() else "` `"


def read_card_file(name: str) -> str:
    """Return the text of a file beside this module."""
    return files("drift_data.publish.cards").joinpath(name).read_text(encoding="utf-8")


def _build_front_matter(
    repo: str, tables: Sequence[PublishedTable], origins: Origins, licence: str | None
) -> dict[str, Any]:
    """Return the YAML head of a data card: how the Hub shows the data set, and one config a table."""
    sources = [load_known_sources().get(source, {}) for source in origins.sources]
    licences = {source.get("licence", "other") for source in sources}
    total = sum(sum(table.rows.values()) for table in tables)
    return {
        "pretty_name": repo.split("/")[-1],
        "license": licence or (licences.pop() if len(licences) == 1 else "other"),
        "task_categories": ["text-generation"],
        "tags": ["preference", "dpo", "user-feedback", "drift"],
        "size_categories": [next((name for limit, name in _SIZE_CATEGORIES if total < limit), "n>1M")],
        "source_datasets": [source["id"] for source in sources if "id" in source] or ["original"],
        "configs": [
            {
                "config_name": table.config,
                **({"default": True} if table is tables[0] else {}),
                "data_files": [
                    {"split": split, "path": f"{table.config}/{split}/*.parquet"}
                    for split in SPLITS
                    if table.rows[split]
                ],
            }
            for table in tables
        ],
    }


def _describe_labels(lineage: Mapping[str, Manifest]) -> dict[str, Any] | None:
    """Return judge, rubric, thresholds and counts of the labels that the tables were mined from."""
    found = [(name, m) for name, m in lineage.items() if name.startswith("labels/")]
    if not found:
        return None
    name, manifest = found[-1]
    return {
        "judge": manifest.made_by.get("judge", name.removeprefix("labels/")),
        "rubric": manifest.made_by.get("rubric"),
        "thresholds": manifest.options.get("thresholds"),
        "counts": {key: value for key, value in manifest.results.items() if isinstance(value, int)},
    }


def _describe_mining(lineage: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return the options with which `dsat` was mined; empty if it was not mined here."""
    mined = lineage.get("dsat")
    keys = ("per_conversation", "test_fraction", "keep_refusals")
    return {key: mined.options[key] for key in keys if mined is not None and key in mined.options}


def _describe_pairs(table: PublishedTable, lineage: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return method, engine and base model of a table of pairs; empty for a mined table.

    If the base model is a folder on this machine, only the last part of its path shows.
    """
    if table.config in _TABLE_MEANINGS:
        return {}
    method = lineage[table.name].options.get("method")
    run = table.name.split("/iter")[0]
    engine = lineage.get(f"{table.name.removesuffix('pairs')}rollouts")
    first = lineage.get(f"{run}/iter0/model")
    base = (first.made_by.get("model") or first.made_by.get("policy")) if first is not None else None
    found = {
        "method": method,
        "engine": engine.made_by.get("engine") if engine is not None else None,
        "base model": (PurePath(base).name if base.startswith(("/", ".", "~")) else base) if base else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _describe_fields(tables: Sequence[PublishedTable]) -> list[dict[str, Any]]:
    """Return name, type, configs and meaning of every column of the tables."""
    about: dict[str, str] = yaml.safe_load(read_card_file("fields.yaml"))
    rows: dict[str, dict[str, Any]] = {}
    for table in tables:
        for field in table.schema:
            row = rows.setdefault(
                field.name,
                {
                    "name": field.name,
                    "type": _name_type(field.type),
                    "configs": [],
                    "about": about[field.name],
                },
            )
            row["configs"].append(table.config)
    return list(rows.values())


def _name_type(kind: pa.DataType) -> str:
    """Return an Arrow type as the card names it."""
    if kind == MESSAGES:
        return "list of {role, content}"
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)
