"""Every source is named wherever people read which sources there are."""

import re
from typing import Any

import pytest
import typer

from drift_data.convert.stage import SOURCES
from pipelines.__main__ import app
from pipelines.recipe import Recipe
from tests.helpers.paths import ROOT


def places() -> dict[str, str]:
    """Return place → text there that must name every source."""
    command: Any = typer.main.get_command(app)
    (source,) = [option for option in command.commands["convert"].params if option.name == "source"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    guide = (ROOT / "docs/guide/convert.md").read_text(encoding="utf-8")
    return {
        "Recipe.source": Recipe.model_fields["source"].description or "",
        "help of --source": source.help,
        "Makefile": "".join(re.findall(r"^convert: .*SOURCE=([\w|-]+)", makefile, re.MULTILINE)),
        "docs/guide/convert.md": guide[guide.index("## Sources") : guide.index("## Your own logs")],
    }


@pytest.mark.parametrize("place", places())
def test_every_source_is_named_where_people_read_of_it(place: str) -> None:
    named = set(re.findall(r"[a-z][a-z-]*", places()[place]))
    assert [source for source in SOURCES if source not in named] == []
