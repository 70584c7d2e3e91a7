"""Writes the reference pages of the documentation: options from the recipe's models, tables from the schemas, commands
from the command line and the Makefile.

`make docs-reference` runs it; a test says when a page is stale.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import typer

from drift_data.schema import TABLES, TableDescription
from pipelines.option_list import list_option_groups

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
_GENERATED = (
    "This page is generated from {source}. Do not edit it: change the source and run `make docs-reference`."
)
# Modules that define tables, in the order of the page.
_TABLE_MODULES = ("drift_data.schema", "drift_data.rubric.tables", "drift_data.simulate.stage")
# Forms in which the Makefile hands a variable to a command: $(call option,JUDGE,judge), --n "$(N)",
# $(foreach i,$(INPUT),--input "$(i)"), $(if $(SQL),--sql "$$SQL") and --work "$(if …,data/demo,$(WORK))".
_HANDED_ON = (
    re.compile(r"\$\(call (?:option|flag),(?P<variable>\w+),(?P<option>[\w-]+)\)"),
    re.compile(r"--(?P<option>[\w-]+) \"\$\((?P<variable>[A-Z]\w*)\)\""),
    re.compile(r"\$\(foreach \w+,\$\((?P<variable>\w+)\),--(?P<option>[\w-]+) "),
    re.compile(r"\$\(if \$\((?P<variable>\w+)\),--(?P<option>[\w-]+) "),
    re.compile(r"--(?P<option>[\w-]+) \"\$\(if .*?\$\((?P<variable>[A-Z]+)\)\)\""),
)


def write_pages(folder: Path = FOLDER) -> list[Path]:
    """Write all pages into a folder and return their paths."""
    paths = []
    for name, text in render_pages().items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


def render_pages() -> dict[str, str]:
    """Return file name → Markdown of every generated page."""
    return {"options.md": render_options(), "tables.md": render_tables(), "commands.md": render_commands()}


def render_options() -> str:
    """Return the page of all options of a recipe."""
    lines = [
        "# Options",
        _GENERATED.format(source="the models of the recipe"),
        "A recipe is a YAML file with these options; it may say `extends: paper-7b` and name only what differs. "
        '`SET="key=value …"` overrides them on the command line. The source says where a default comes from: '
        "the paper, the authors' release, or ours. A shipped recipe may say something else: "
        "`make recipe RECIPE=paper-7b` shows what it resolves to.",
    ]
    for group in list_option_groups():
        lines += [f"## {_escape(group.key) or 'The recipe itself'}", _escape(group.purpose)]
        has_units = any(option.unit for option in group.options)
        heads = ["option", "default", "values", "meaning", *(["unit"] if has_units else []), "source"]
        rows = [
            [
                _escape_code(option.key),
                "required" if option.default is None else _escape_code(option.default),
                _escape(option.values),
                _escape(option.meaning),
                *([_escape(option.unit)] if has_units else []),
                _escape(option.origin) or "–",
            ]
            for option in group.options
        ]
        if rows:
            lines.append(_render_table(heads, rows))
    return _join_paragraphs(lines)


def render_tables() -> str:
    """Return the page of all tables of a workspace."""
    lines = [
        "# Tables",
        _GENERATED.format(source="`drift_data/schema.py` and the schemas beside the stages"),
        "A table is a folder of Parquet shards. `messages` is a list of `{role, content}`. A column that is not "
        "marked as nullable always has a value. [The workspace](workspace.md) says where each table lies.",
    ]
    for name, table in load_tables().items():
        lines += [f"## {name}", f"One row is {_escape(table.row)}."]
        rows = [
            [
                f"`{field.name}`",
                _escape(_describe_type(field.type)),
                "yes" if field.nullable else "no",
                _escape(table.meanings[field.name]),
            ]
            for field in table.schema
        ]
        lines.append(_render_table(["column", "type", "nullable", "meaning"], rows))
    return _join_paragraphs(lines)


def load_tables() -> dict[str, TableDescription]:
    """Return name → description of every table, in the order of the modules that define them."""
    tables: dict[str, TableDescription] = {}
    for name in _TABLE_MODULES:
        schemas = [
            value for value in vars(importlib.import_module(name)).values() if isinstance(value, pa.Schema)
        ]
        tables |= {
            table: described
            for table, described in TABLES.items()
            if table not in tables and described.schema in schemas
        }
    return tables


def _describe_type(kind: pa.DataType) -> str:
    """Return an Arrow type as people write it."""
    if pa.types.is_list(kind):
        inside = _describe_type(kind.value_type)
        return "messages" if inside == "{role string, content string}" else f"list of {inside}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{field.name} {_describe_type(field.type)}" for field in kind) + "}"
    return str(kind)


def render_commands() -> str:
    """Return the page of all commands, each beside its Make target and variables."""
    # The whole command line: imported here, since a page of tables needs none of it.
    from pipelines.__main__ import app

    command: Any = typer.main.get_command(app)
    targets = read_make_targets(ROOT / "Makefile")
    lines = [
        "# Commands",
        _GENERATED.format(source="the command line and the Makefile"),
        "A Make target sets the toolkit up when needed and calls the command of the same name: "
        "`make label JUDGE=local` is `.venv/bin/drift label --judge local`. A Make variable that stands for several "
        "values has them separated by spaces; the option is given several times.",
    ]
    for name, sub in command.commands.items():
        if sub.hidden:
            continue
        variables = targets.get(name, {})
        title = f"`make {name}`, `drift {name}`" if name in targets else f"`drift {name}`"
        lines += [f"## {name}", f"{title}: {_escape(' '.join((sub.help or '').split()))}"]
        rows = [
            [
                f"`{variables[option]}=`" if option in variables else "–",
                f"`{parameter.opts[0]}`",
                _escape(parameter.help or "–"),
                _describe_default(parameter),
            ]
            for parameter in sub.params
            if (option := parameter.opts[0].removeprefix("--")) != "help"
        ]
        lines.append(_render_table(["Make variable", "option", "meaning", "default"], rows))
    return _join_paragraphs(lines)


def _describe_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if parameter.multiple:
        return "none; may be given several times"
    if parameter.default in (None, "", False):
        return "–"
    return _escape_code(str(parameter.default))


def read_make_targets(path: Path) -> dict[str, dict[str, str]]:
    """Return target → option of its command → Make variable, for every target that calls a command.

    Args:
        path: path of the Makefile.
    """
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    variables = dict(re.findall(r"^(\w+) = (.*)$", text, re.MULTILINE))
    targets = {}
    for name, recipe in re.findall(r"^([a-z-]+):.*\n\t@\$\(DRIFT\) (.*)$", text, re.MULTILINE):
        expanded = re.sub(r"\$\((COMMON|ASK)\)", lambda found: variables[found[1]], recipe)
        targets[name] = {
            found["option"]: found["variable"] for form in _HANDED_ON for found in form.finditer(expanded)
        }
    return targets


def _join_paragraphs(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"


def _render_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_iter_table_lines(heads, rows))


def _iter_table_lines(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _escape(text: str) -> str:
    """Return text that stands in one cell of a Markdown table; code between backticks stays as it is."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts)


def _escape_code(text: str) -> str:
    """Return a value as code in one cell of a Markdown table."""
    return "`" + " ".join(text.split()).replace("|", "\\|") + "`"


if __name__ == "__main__":
    for written in write_pages():
        print(written.relative_to(ROOT), file=sys.stderr)
