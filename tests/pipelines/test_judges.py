"""Every kind of judge is made, and named wherever people read which kinds there are."""

import re
from typing import Any, get_args

import pytest
import typer

from drift_data.judge.options import LabelOptions
from drift_data.workspace import Workspace
from pipelines.__main__ import app
from pipelines.judges import make_embedded_judge
from tests.helpers.paths import ROOT
from tests.helpers.scripted_judge import make_workspace, row

KINDS: tuple[str, ...] = get_args(LabelOptions.model_fields["judge"].annotation)
ASKING = {"cascade": "openai", "openai": "openai", "vllm": "vllm", "batch": "batch"}


def options_of(kind: str) -> LabelOptions:
    return LabelOptions.model_construct(judge=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_kinds_that_ask_a_language_model_say_how_they_reach_it(kind: str) -> None:
    assert options_of(kind).asks == ASKING.get(kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ASKING])
def test_a_kind_that_asks_no_language_model_is_made(kind: str, tmp_path: Any) -> None:
    workspace = make_workspace(tmp_path, labels=[row("a", 2, label="SAT")])
    assert make_embedded_judge(workspace, options_of(kind)).name.startswith(f"{kind}:")


def test_a_kind_that_nobody_makes_is_a_clear_error_and_no_other_judge(tmp_path: Any) -> None:
    with pytest.raises(
        ValueError, match=r"does not make the judge 'new'.* needs a case in make_embedded_judge"
    ):
        make_embedded_judge(Workspace(tmp_path), options_of("new"))
    with pytest.raises(AssertionError, match="new"):
        assert options_of("new").asks is None


def places() -> dict[str, str]:
    """Return place → text there that must name every kind of judge."""
    command: Any = typer.main.get_command(app)
    (judge,) = [option for option in command.commands["label"].params if option.name == "judge"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    guide = (ROOT / "docs/guide/label.md").read_text(encoding="utf-8")
    return {
        "LabelOptions.judge": LabelOptions.model_fields["judge"].description or "",
        "help of JudgeOption": judge.help,
        "Makefile": "".join(re.findall(r"^label: .*JUDGE=([\w|-]+)", makefile, re.MULTILINE)),
        "docs/guide/label.md": guide[guide.index("## Judges") : guide.index("## What it will cost")],
    }


@pytest.mark.parametrize("place", places())
def test_every_kind_of_judge_is_named_where_people_read_of_it(place: str) -> None:
    named = set(re.findall(r"[a-z]+", places()[place]))
    assert [kind for kind in KINDS if kind not in named] == []
