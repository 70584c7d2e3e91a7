"""Paper recipes beside the paper: no difference that is not named."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import yaml
from rich.console import Console

from drift_train.options import MethodName
from pipelines import reference
from pipelines.console import print_recipe
from pipelines.option_list import Option, describe_option, list_option_groups
from pipelines.recipe import load_recipe
from pipelines.reference import REFERENCE_FILE, Line, compare, resolve

PAPER = ["paper-7b", "paper-14b", "ultrafeedback-7b"]


def lines(name: str, *overrides: str) -> dict[str, Line]:
    return {line.name: line for line in compare(load_recipe(name, list(overrides)))}


@pytest.mark.parametrize("method", get_args(MethodName))
@pytest.mark.parametrize("name", PAPER)
def test_a_paper_recipe_has_no_difference_that_is_not_named(name: str, method: str) -> None:
    found = compare(load_recipe(name, [f"loop.method={method}"]))
    assert [line for line in found if line.verdict == "unnamed"] == []
    assert all(line.note for line in found if line.verdict in ("named", "ours"))
    assert all(
        line.here == line.published or " or " in line.published for line in found if line.verdict == "same"
    )


@pytest.mark.parametrize("name", PAPER)
def test_every_option_that_determines_a_model_has_a_line(name: str) -> None:
    recipe = load_recipe(name)
    shown = [line.name for line in compare(recipe)]
    assert set(resolve(recipe)) <= set(shown)
    assert len(shown) == len(set(shown))


@pytest.mark.parametrize(
    ("override", "here"),
    [
        ("loop.train.learning_rate=1e-6", "1e-06"),
        ("loop.pairs.drop_leaks_in_seed=true", "true"),
        ("loop.rollout.guidance=false", "false"),
        ("loop.rollout.engine=transformers", "transformers"),  # neither the release's words nor what is named
        ("loop.warm=null", "none"),
    ],
)
def test_a_change_of_ones_own_is_a_difference_without_a_name(override: str, here: str) -> None:
    changed = lines("paper-7b", override)[override.split("=")[0]]
    assert (changed.verdict, changed.here) == ("unnamed", here)


def test_an_option_whose_field_names_no_source_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def describe_without_source(key: str) -> Option | None:
        option = describe_option(key)
        return replace(option, source="") if option and key == "loop.rollout.recheck" else option

    values = yaml.safe_load(REFERENCE_FILE.read_text())
    values.get("ours", {}).pop("loop.rollout.recheck", None)
    path = tmp_path / "reference.yaml"
    path.write_text(yaml.safe_dump(values))
    monkeypatch.setattr(reference, "REFERENCE_FILE", path)
    monkeypatch.setattr(reference, "describe_option", describe_without_source)
    assert lines("paper-7b")["loop.rollout.recheck"].verdict == "unnamed"


G, X = "fresh sample guided by the feedback", "fresh sample from x alone"
REWARD = "loop.reward.model=some/model"


@pytest.mark.parametrize(
    ("recipe", "method", "guided", "expected"),
    [
        ("paper-7b", "drift", False, {"chosen": X, "rejected": None}),
        ("paper-7b", "spin", True, {"chosen": "the SAT reply of a seed pair", "rejected": G}),
        (
            "paper-7b",
            "iterdpo",
            False,
            {
                "chosen": "the better of the samples from x by the reward",
                "rejected": "the worse of the samples from x by the reward",
            },
        ),
        ("ultrafeedback-7b", "drift", True, {"chosen": G, "rejected": None}),
        ("ultrafeedback-7b", "spin", True, {"chosen": None, "rejected": G}),
        ("ultrafeedback-7b", "iterdpo", True, {"chosen and rejected": f"a {G} and one from x alone"}),
    ],
)
def test_what_guidance_changes_of_a_pair_is_not_called_the_same(
    recipe: str, method: str, guided: bool, expected: dict[str, str | None]
) -> None:
    """None: as published, guided or not."""
    common = [f"loop.method={method}", REWARD]
    published = lines(recipe, *common)
    changed = lines(recipe, *common, f"loop.rollout.guidance={str(guided).lower()}")
    for name, here in expected.items():
        assert published[name].verdict == "same"
        line = changed[name]
        assert (line.here, line.verdict) == (here or line.published, "named" if here else "same")
        assert line.published == published[name].published


def test_health_may_be_left_out_as_it_changes_nothing() -> None:
    assert lines("paper-7b", "loop.health=null")["loop.health"].verdict == "ours"


def test_methods_are_shown_as_table_1_has_them() -> None:
    drift, spin = lines("paper-7b"), lines("paper-7b", "loop.method=spin")
    assert (drift["rejected"].here, spin["chosen"].here) == ("the DSAT reply", "the SAT reply")
    assert (drift["loop.rollout.guidance"].here, spin["loop.rollout.guidance"].here) == ("true", "false")
    ranked = lines("ultrafeedback-7b", "loop.method=iterdpo")
    assert ranked["loop.rollout.samples"].here == "2"
    assert ranked["loop.reward.model"].verdict == "named"


def test_the_sources_of_the_papers_figures_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_recipe(load_recipe("paper-7b", ["loop.train.beta=0.2"]), Console(width=200))
    shown = capsys.readouterr().out
    rate = next(line for line in shown.splitlines() if "loop.train.learning_rate" in line)
    assert "5e-07" in rate
    assert "paper app. D" in rate
    beta = next(line for line in shown.splitlines() if "loop.train.beta" in line)
    assert "0.2" in beta
    assert "no reason is given" in beta
    assert "1 differ without a reason" in shown


def test_the_source_beside_a_training_option_is_the_one_that_the_reference_names() -> None:
    values = yaml.safe_load(REFERENCE_FILE.read_text())
    named: dict[str, set[str]] = {key: {"ours"} for key in values.get("ours", {})}
    for setting in values["settings"]:
        if (
            "data" in setting or "methods" in setting
        ):  # what holds for some runs is not the source of the default
            continue
        published = "paper" if "paper" in setting["source"] else "release"
        for key in setting.get("keys", []):
            named.setdefault(key, set()).update({published, "ours"} if "here" in setting else {published})
    options = {option.key: option for group in list_option_groups() for option in group.options}
    assert all(option.source for key, option in options.items() if key.startswith("loop."))
    wrong = {
        key: options[key].source
        for key, sources in named.items()
        if key in options and key.startswith("loop.") and not options[key].source.startswith(tuple(sources))
    }
    assert not wrong
