"""Every option of a recipe says what it means and where its value comes from; `drift recipe --options` prints it all."""

import pytest
from pydantic import BaseModel
from rich.console import Console

from pipelines.console import print_options
from pipelines.option_list import NOT_STATED, list_option_groups
from pipelines.recipe import Recipe

SOURCES = {"paper", "release", "ours"}
OPTIONS = [option for group in list_option_groups() for option in group.options]


def test_every_option_has_a_meaning_in_at_least_three_words() -> None:
    short = [o.key for o in OPTIONS if len(o.meaning.split()) < 3]
    assert short == []


def test_every_option_names_its_source() -> None:
    assert [o.key for o in OPTIONS if o.source not in SOURCES] == []


def test_what_paper_and_release_say_has_a_value() -> None:
    """An option that a recipe has to give, such as `model`, has no default that could have been published."""
    published = [option for option in OPTIONS if option.source in ("paper", "release")]
    assert [option.key for option in published if option.default is None] == []


def test_every_group_has_a_purpose() -> None:
    assert [group.key for group in list_option_groups() if len(group.purpose.split()) < 3] == []


def test_all_options_are_printed_with_default_source_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    print_options(Console(width=400))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    keys = [line.split()[0] for line in lines if line]
    assert [option.key for option in OPTIONS if option.key not in keys] == []
    budget = next(option for option in OPTIONS if option.key == "label.budget")
    place = lines.index("label.budget = null  (number ≥ 0 or null; ours)")
    assert lines[place + 1] == budget.meaning


def test_no_option_is_left_out_of_the_list() -> None:
    """Counted in another way: through the JSON schema that pydantic itself writes."""
    listed = {option.key.split(".")[-1] for option in OPTIONS} | {
        part for group in list_option_groups() for part in group.key.split(".")
    }
    schema = Recipe.model_json_schema()
    named = set(schema["properties"]).union(
        *(part.get("properties", {}) for part in schema["$defs"].values())
    )
    assert named - listed == set()
    assert issubclass(Recipe, BaseModel) and NOT_STATED not in listed
