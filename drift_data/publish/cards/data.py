"""Writes the data card of published tables from their manifests. It reads no row and decides nothing.

Everything in it is ours, a number, or goes through the template's `code` filter: text from logs and manifests
cannot become mark-up. Nothing depends on the time or the machine, so equal tables have equal cards.
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
_ABOUT = {
    "dsat": "a reply that drew a complaint, and the complaint",
    "sat": "a reply that satisfied, and what the user said",
    "seed": "a reply that drew a complaint, and the revised reply that satisfied",
}
_PAIR = "a preference pair to train on, in the form TRL takes"
_OWN = "Own chat logs of whoever publishes this. No licence comes with them from elsewhere."
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One config: a table of the workspace as it is uploaded."""

    config: str  # "dsat", "pairs-iter1"
    name: str  # its folder in the workspace
    schema: pa.Schema
    rows: Mapping[str, int]  # by split


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the rows come from."""

    sources: Mapping[str, int]  # source → conversations
    toxic_rows: int
    unflagged_rows: int  # of conversations that the source says nothing of


Scan = Literal["clean", "skipped", "not_needed"]


@cache
def known_sources() -> Mapping[str, Mapping[str, str]]:
    """Return source → name, licence and notice of the public data sets that `convert` reads."""
    known: dict[str, dict[str, str]] = yaml.safe_load(card_text("sources.yaml"))
    return known


def render_card(
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
        tables: what is uploaded, at least one row in all.
        lineage: manifests of the tables and of all they were made from, inputs first.
        origins: of the rows.
        scan: what the search for personal data came to.
        licence: the Hub's id of a licence; None is the source's own.
    """
    present = [table for table in tables if sum(table.rows.values())]
    return (
        card_environment()
        .get_template("dataset.md.jinja")
        .render(
            front_matter=yaml.safe_dump(
                _front_matter(repo, present, origins, licence), sort_keys=False, allow_unicode=True
            ),
            title=repo.split("/")[-1],
            repo=repo,
            tables=[
                {
                    "config": table.config,
                    "about": _ABOUT.get(table.config, _PAIR),
                    "rows": table.rows,
                    "made_by": _made_by(table, lineage),
                }
                for table in tables
            ],
            example=present[0].config,
            sources=[
                {"conversations": count, **known_sources().get(source, {"name": "own logs", "notice": _OWN})}
                for source, count in origins.sources.items()
            ],
            has_pairs=any(table.config not in _ABOUT for table in tables),
            labels=_labels(lineage),
            mining=_mining(lineage),
            steps=[
                {"name": name, "rows_in": m.rows_in, "rows_out": m.rows_out, "dropped": m.dropped}
                for name, m in lineage.items()
                if m.rows_in is not None or m.rows_out
            ],
            fields=_fields(tables),
            origins=origins,
            scan=scan,
        )
    )


def card_environment() -> Environment:
    """Return the environment that renders a card."""
    environment = Environment(
        loader=PackageLoader("drift_data.publish.cards", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: `code` is what escapes
    )
    environment.filters["code"] = code
    return environment


def code(text: object) -> str:
    """Return text as one line of Markdown code that also a table cell can hold; cut after 120 characters."""
    shown = escape_invisible(str(text), 120).replace("`", "'").replace("|", "¦")
    return f"`{shown}`" if shown.strip() else "` `"


def card_text(name: str) -> str:
    """Return one of the files beside this module."""
    return files("drift_data.publish.cards").joinpath(name).read_text(encoding="utf-8")


def _front_matter(
    repo: str, tables: Sequence[PublishedTable], origins: Origins, licence: str | None
) -> dict[str, Any]:
    sources = [known_sources().get(source, {}) for source in origins.sources]
    licences = {source.get("licence", "other") for source in sources}
    total = sum(sum(table.rows.values()) for table in tables)
    return {
        "pretty_name": repo.split("/")[-1],
        "license": licence or (licences.pop() if len(licences) == 1 else "other"),
        "task_categories": ["text-generation"],
        "tags": ["preference", "dpo", "user-feedback", "drift"],
        "size_categories": [next((name for limit, name in _SIZES if total < limit), "n>1M")],
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


def _labels(lineage: Mapping[str, Manifest]) -> dict[str, Any] | None:
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


def _mining(lineage: Mapping[str, Manifest]) -> dict[str, Any]:
    mined = lineage.get("dsat")
    keys = ("per_conversation", "test_fraction", "keep_refusals")
    return {key: mined.options[key] for key in keys if mined is not None and key in mined.options}


def _made_by(table: PublishedTable, lineage: Mapping[str, Manifest]) -> dict[str, Any]:
    """Return method, engine and base model of pairs. Of a folder on this machine only the last part shows."""
    if table.config in _ABOUT:
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


def _fields(tables: Sequence[PublishedTable]) -> list[dict[str, Any]]:
    about: dict[str, str] = yaml.safe_load(card_text("fields.yaml"))
    rows: dict[str, dict[str, Any]] = {}
    for table in tables:
        for field in table.schema:
            row = rows.setdefault(
                field.name,
                {"name": field.name, "type": _type(field.type), "configs": [], "about": about[field.name]},
            )
            row["configs"].append(table.config)
    return list(rows.values())


def _type(kind: pa.DataType) -> str:
    if kind == MESSAGES:
        return "list of {role, content}"
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)
