"""The stages from training examples to measured models: warm, iter, eval."""

from drift_data.simulate.world import gold_reward
from drift_data.workspace import UserError, Workspace
from drift_train import loop
from drift_train.evaluate.samples import evaluate as evaluate_samples
from drift_train.tiny import make_tiny
from pipelines.recipe import TINY, Recipe

BASE = "base"


def run_name(recipe: Recipe, run: str | None) -> str:
    """Return the run's folder name: the one given, or recipe-method."""
    return run or f"{recipe.name}-{recipe.loop.method}"


def base_model(workspace: Workspace, recipe: Recipe) -> str:
    """Return the base model's folder or Hub id; the tiny model is made and pre-trained when it is missing."""
    if recipe.model != TINY:
        return recipe.model
    workspace.run(
        "tiny",
        [BASE],
        lambda build: build[BASE].results.update(
            make_tiny(
                ((row["phase"], row["messages"]) for row in workspace.read("simulated/pretrain").to_pylist()),
                build[BASE].folder,
                recipe.tiny,
            )
        ),
        options=recipe.tiny.model_dump(),
        inputs=["simulated/pretrain"],
    )
    return BASE


def warm(workspace: Workspace, recipe: Recipe, run: str | None) -> None:
    """Train M0 on the seed pairs."""
    loop.warm(workspace, run_name(recipe, run), base_model(workspace, recipe), recipe.loop)


def iterate(workspace: Workspace, recipe: Recipe, run: str | None, n: int) -> None:
    """Train M_n, and what is missing before it."""
    loop.iterate(workspace, run_name(recipe, run), n, base_model(workspace, recipe), recipe.loop)
