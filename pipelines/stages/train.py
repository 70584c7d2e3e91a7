"""The stages from training examples to measured models: warm, iter, eval."""

import sys
from collections.abc import Mapping

from rich.console import Console

from drift_data.publish.cards.model import write_model_card
from drift_data.workspace import Output, UserError, Workspace
from drift_train import loop
from pipelines.recipe import TINY, Recipe
from pipelines.stages.health import show_health
from pipelines.stages.names import BASE, models, run_name

PRETRAIN = "simulated/pretrain"
HELDOUT = "simulated/heldout"


def base_model(workspace: Workspace, recipe: Recipe) -> str:
    """Return the base model's folder or Hub id; the tiny model is made and pre-trained when it is missing."""
    if recipe.model != TINY:
        return recipe.model

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.models.tiny import make_tiny  # with torch: not for a model that is there

        rows = workspace.read(PRETRAIN).to_pylist()
        chats = ((row["phase"], row["messages"]) for row in rows)
        outputs[BASE].results = make_tiny(chats, outputs[BASE].folder, recipe.tiny)

    workspace.run("tiny", [BASE], build, options=recipe.tiny.model_dump(), inputs=[PRETRAIN])
    return BASE


def warm(workspace: Workspace, recipe: Recipe, run: str | None) -> None:
    """Train M0 on the seed pairs."""
    name = run_name(recipe, run)
    loop.warm(workspace, name, base_model(workspace, recipe), recipe.loop)
    _write_cards(workspace, recipe, name, 0)


def iterate(workspace: Workspace, recipe: Recipe, run: str | None, n: int) -> None:
    """Train M_n, and what is missing before it; then say how the run is doing."""
    name = run_name(recipe, run)
    loop.iterate(workspace, name, n, base_model(workspace, recipe), recipe.loop)
    _write_cards(workspace, recipe, name, n)
    show_health(workspace, name, recipe.alarms, Console(stderr=True))


def _write_cards(workspace: Workspace, recipe: Recipe, run: str, n: int) -> None:
    """Write the cards of M0 … M_n, with all that is known of them by now."""
    for k in range(n + 1):
        write_model_card(workspace, run, k, recipe.alarms)


def evaluate(workspace: Workspace, recipe: Recipe, run: str | None, n: int) -> None:
    """Measure the base model and M0 … M_n, with what the workspace allows.

    Simulated logs have held-out prompts and a gold reward. Real logs have the test split of their seed pairs, on
    which the implicit reward against the base model is measured.
    """
    name, base = run_name(recipe, run), base_model(workspace, recipe)
    folders = {label: base if label == BASE else f"runs/{name}/{label}/model" for label in models(n)}
    for label in models(n)[1:]:
        workspace.require(folders[label])
    if workspace.manifest(HELDOUT) is not None:
        _evaluate_gold(workspace, recipe, name, folders)
    elif _held_out_seed_pairs(workspace):
        _evaluate_pairs(workspace, recipe, name, folders, base)
    else:
        raise UserError(
            f"{workspace.root} has nothing to measure on: no held-out prompts with a gold reward, and no test row "
            "in seed. Raise mine.test_fraction and run `make seed` again, or collect more logs."
        )
    _write_cards(workspace, recipe, name, n)


def _evaluate_gold(workspace: Workspace, recipe: Recipe, run: str, folders: dict[str, str]) -> None:
    from drift_data.simulate.world import gold_reward
    from drift_train.evaluate.gold import evaluate as evaluate_samples

    for label, model in folders.items():
        evaluate_samples(workspace, run, label, model, HELDOUT, gold_reward, "gold", recipe.evaluate)
        gold = workspace.require(f"runs/{run}/{label}/eval").results["gold"]
        print(
            f"{label}: gold reward {gold['mean']:.3f} ± {gold['stderr']:.3f} (n = {gold['n']})",
            file=sys.stderr,
        )


def _held_out_seed_pairs(workspace: Workspace) -> bool:
    return workspace.manifest("seed") is not None and "test" in set(
        workspace.read("seed", ["split"])["split"].to_pylist()
    )


def _evaluate_pairs(
    workspace: Workspace, recipe: Recipe, run: str, folders: dict[str, str], base: str
) -> None:
    from drift_train.evaluate.heldout import evaluate_heldout

    train = recipe.loop.train
    for label, model in folders.items():
        if label != BASE:
            evaluate_heldout(workspace, run, label, model, base, train.beta, train.max_length)
            results = workspace.require(f"runs/{run}/{label}/heldout").results
            print(f"{label}: held-out seed pairs: {results}", file=sys.stderr)
