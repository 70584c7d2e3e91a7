"""Recipes load, say what is wrong with them, and carry the paper's figures."""

from pathlib import Path

import pytest

from drift_data.workspace import UserError
from pipelines.recipe import list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_loads(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_shipped_recipes_are_those_the_readme_names() -> None:
    assert list_recipes() == ["demo", "paper-14b", "paper-7b", "ultrafeedback-7b"]


@pytest.mark.parametrize("name", ["paper-7b", "paper-14b", "ultrafeedback-7b"])
def test_paper_recipes_carry_the_papers_hyper_parameters(name: str) -> None:
    recipe = load_recipe(name)
    train, rollout = recipe.loop.train, recipe.loop.rollout
    assert (train.learning_rate, train.beta, train.alpha, train.epochs) == (5e-7, 0.1, 0.001, 1)
    assert (train.scheduler, train.warmup_ratio, train.optimizer) == ("linear", 0.1, "rmsprop")
    assert (train.global_batch, train.max_length, train.seed) == (32, 2048, 42)
    assert (rollout.temperature, rollout.top_p, rollout.max_new_tokens, rollout.samples) == (0.7, 0.9, 512, 1)
    assert recipe.model == f"Qwen/Qwen2.5-{name.split('-')[1].upper()}-Instruct"


@pytest.mark.parametrize(
    ("name", "method", "table", "guided", "samples", "ranked"),
    [  # the paper's table 1
        ("paper-7b", "drift", "dsat", True, 1, False),
        ("paper-7b", "spin", "sat", False, 1, False),
        ("paper-7b", "iterdpo", "dsat", True, 1, False),
        ("ultrafeedback-7b", "drift", "preferences", False, 1, False),
        ("ultrafeedback-7b", "spin", "preferences", False, 1, False),
        ("ultrafeedback-7b", "iterdpo", "preferences", False, 2, True),
    ],
)
def test_each_method_is_the_papers_by_its_name_alone(
    name: str, method: str, table: str, guided: bool, samples: int, ranked: bool
) -> None:
    options = load_recipe(name, [f"loop.method={method}"]).loop
    assert options.examples_table == table
    assert (options.is_guided, options.rollout_options().samples) == (guided, samples)
    assert (options.ranking is not None) == ranked
    assert (options.warm is None) == (name == "ultrafeedback-7b")
    if options.ranking is not None:
        assert options.ranking.model.startswith("OpenAssistant/reward-model-deberta-v3-large-v2@")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.method=spinn", r"loop\.method: .*'drift', 'spin' or 'iterdpo'"),
        (
            "loop.rollout.select=best",
            r"select: best needs a reward model: set reward, e\.g\. loop\.reward\.model=",
        ),
    ],
)
def test_a_method_that_cannot_work_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("paper-7b", [override])


def test_the_paper_warm_start_takes_three_epochs() -> None:
    warm = load_recipe("paper-14b").loop.warm
    assert warm is not None
    assert (warm.epochs, warm.learning_rate) == (3, 5e-7)


def test_an_override_reaches_the_option_it_names_and_no_other() -> None:
    plain, changed = load_recipe("paper-7b"), load_recipe("paper-7b", ["loop.train.learning_rate=1e-6"])
    assert changed.loop.train.learning_rate == 1e-6
    changed.loop.train.learning_rate = plain.loop.train.learning_rate
    assert changed == plain


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loop.train.lr=1"], r"unknown option 'loop\.train\.lr'$"),
        (["distil.seed=1"], r"unknown option 'distil'; did you mean 'distill'\?"),
        (["loop.warm.epoch=1"], r"unknown option 'loop\.warm\.epoch'; did you mean 'loop\.warm\.epochs'\?"),
        (["loop.train.beta=high"], r"loop\.train\.beta: .*'high'"),
        (["loop.train.beta"], "key=value"),
        (["model.name=x"], "model holds a value"),
    ],
)
def test_a_wrong_override_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("paper-7b", overrides)


@pytest.mark.parametrize(
    "override",
    [
        "label.server.base_url=http://me:sk-secret@example.org/v1",
        "label.server.base_url=http://example.org:sk-secret/v1",
        "label.server.api_key_env=sk-secret",
        "label.server.key=sk-secret",
    ],
)
def test_a_key_in_the_wrong_place_is_not_shown(override: str) -> None:
    with pytest.raises(UserError, match=r"label\.server\.") as raised:
        load_recipe("paper-7b", [override])
    assert "secret" not in repr([raised.value, raised.value.__cause__])


def test_an_unknown_recipe_lists_those_that_ship() -> None:
    with pytest.raises(UserError, match=r"demo, paper-14b, paper-7b, ultrafeedback-7b"):
        load_recipe("paper")


def test_a_recipe_of_ones_own_may_extend_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: paper-7b\nloop: {train: {beta: 0.2}}\n")
    recipe = load_recipe(str(path))
    assert (recipe.name, recipe.loop.train.beta, recipe.loop.train.learning_rate) == ("mine", 0.2, 5e-7)


def test_a_recipe_that_extends_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "loop.yaml"
    path.write_text(f"extends: {path}\n")
    with pytest.raises(UserError, match="extends itself"):
        load_recipe(str(path))


def test_a_broken_recipe_file_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1, 2")
    with pytest.raises(UserError, match="is not YAML"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("options", "table"),
    [
        ([], "local"),
        (["judge=openai"], "openai"),
        (["classifier=openai"], "local-openai"),
        (["classifier=elsewhere/distilled/ann/model.npz"], "local-ann"),
        (["classifier='my models/v 2.npz'"], "local-v-2"),
        (["classifier=openai", "name=mine"], "mine"),
        (["classifier=openai", "judge=cascade"], "cascade"),
    ],
)
def test_labels_of_a_named_classifier_have_a_table_of_their_own(options: list[str], table: str) -> None:
    assert load_recipe("demo", [f"label.{option}" for option in options]).label.table == table
