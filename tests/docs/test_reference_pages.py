"""The generated pages of the reference are current, and say something of every column, option and command."""

import re

import pyarrow as pa
import pytest

from drift_data import schema
from drift_data.rubric import tables as rubric_tables
from drift_data.simulate import stage as simulate_stage
from pipelines.option_list import list_option_groups
from pipelines.recipe import load_recipe
from pipelines.reference_pages import FOLDER, ROOT, load_tables, read_make_targets, render_pages

RENDERED = render_pages()
TABLES = load_tables()


@pytest.mark.parametrize("name", sorted(RENDERED))
def test_a_generated_page_is_current(name: str) -> None:
    there = (FOLDER / name).read_text(encoding="utf-8")
    assert there == RENDERED[name], "run `make docs-reference` and commit the page"


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_column_of_a_table_has_a_meaning(name: str) -> None:
    table = TABLES[name]
    assert list(table.meanings) == table.schema.names
    assert all(meaning.strip() for meaning in table.meanings.values())
    assert table.row.strip()


def test_every_schema_of_a_table_is_on_the_page() -> None:
    described = [table.schema for table in TABLES.values()]
    modules = (schema, rubric_tables, simulate_stage)
    named = {name: value for module in modules for name, value in vars(module).items()}
    schemas = {name: value for name, value in named.items() if isinstance(value, pa.Schema)}
    assert [name for name, value in schemas.items() if value not in described] == []


def test_meanings_are_no_part_of_a_schema_that_goes_into_files() -> None:
    for table in TABLES.values():
        assert table.schema.metadata is None
        assert all(field.metadata is None for field in table.schema)


def test_the_page_of_options_has_the_default_that_holds_at_each_place() -> None:
    options = {option.key: option for group in list_option_groups() for option in group.options}
    assert options["loop.train.epochs"].default == "1"
    assert options["loop.warm.epochs"].default == "3"  # the same model, another default
    assert options["loop.rollout.server"].default == "null"
    assert options["loop.rollout.server.base_url"].default is None  # required once there is a server
    assert options["evaluate.temperature"].default == "1"
    assert options["label.prices.<name>.input"].values == "number ≥ 0"
    assert options["clean.deduplicate"].values == "off, exact, near"


def test_every_option_on_the_page_can_be_set() -> None:
    for group in list_option_groups():
        for option in group.options:
            if "<name>" not in option.key and option.key not in ("name", "description", "source", "model"):
                keys = option.key.split(".")
                default = load_recipe("demo").model_dump(mode="json")
                for key in keys[:-1]:
                    default = default.get(key) if isinstance(default, dict) else None
                if default is not None:  # the group is not null by default
                    assert keys[-1] in default, option.key


def test_a_make_variable_stands_beside_the_option_it_becomes() -> None:
    targets = read_make_targets(ROOT / "Makefile")
    assert targets["label"]["judge"] == "JUDGE"
    assert targets["label"]["offline"] == "OFFLINE"
    assert targets["convert"]["input"] == "INPUT"
    assert targets["query"]["sql"] == "SQL"
    assert targets["query"]["name"] == "Q"
    assert targets["iter"]["n"] == "N"
    assert targets["publish"]["model-of"] == "MODEL_OF"


def test_every_target_that_calls_a_command_is_on_the_page() -> None:
    titles = set(re.findall(r"^## ([a-z-]+)$", RENDERED["commands.md"], re.MULTILINE))
    assert set(read_make_targets(ROOT / "Makefile")) <= titles
