"""`make eval`: measures the base model and M0 … M_n with what the workspace allows.

Simulated logs have held-out prompts and a gold reward. Real logs have the test split of their seed pairs, on which the
implicit reward against the base model is measured.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.options import RECIPE, WORK, BaseModelName, RecipeName, Run, Set, Work, open_workspace

if TYPE_CHECKING:
    from drift_data.workspace import Workspace
    from pipelines.recipe import Recipe

HELDOUT = "simulated/heldout"  # table of held-out prompts


def evaluate(
    n: Annotated[int, typer.Option(help="Last iteration to measure.", min=0)] = 1,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    model: BaseModelName = None,
    run: Run = None,
    overrides: Set = None,
) -> None:
    """Measure the base model and every iterate up to M_n."""
    workspace, loaded = open_workspace(work, recipe, overrides, model=model)
    from drift_data.workspace import UserError, locate_output
    from pipelines.runs import BASE, find_base_model, list_models, name_run, write_cards

    name, base = name_run(loaded, run), find_base_model(workspace, loaded)
    folders = {
        label: base if label == BASE else locate_output(name, label, "model") for label in list_models(n)
    }
    for label in list_models(n)[1:]:
        workspace.require(folders[label])
    if workspace.manifest(HELDOUT) is not None:
        _measure_gold_reward(workspace, loaded, name, folders)
    elif _has_held_out_seed_pairs(workspace):
        _measure_seed_pairs(workspace, loaded, name, folders, base)
    else:
        raise UserError(
            f"{workspace.root} has nothing to measure on: no held-out prompts with a gold reward, and no test row "
            "in seed. Raise mine.test_fraction and run `make seed` again, or collect more logs."
        )
    write_cards(workspace, loaded, name, n)


def _measure_gold_reward(workspace: Workspace, recipe: Recipe, run: str, folders: dict[str, str]) -> None:
    """Measure the gold reward of each model's replies to the held-out prompts.

    Args:
        workspace: holds the prompts.
        recipe: says how replies are sampled.
        run: folder name of the run.
        folders: name of a model, such as "iter1" → its folder or Hub id.
    """
    from drift_data.simulate.world import compute_gold_reward
    from drift_data.workspace import locate_output
    from drift_train.evaluate.stage import evaluate_samples

    for label, model in folders.items():
        evaluate_samples(workspace, run, label, model, HELDOUT, compute_gold_reward, "gold", recipe.evaluate)
        gold = workspace.require(locate_output(run, label, "eval")).results["gold"]
        print(
            f"{label}: gold reward {gold['mean']:.3f} ± {gold['stderr']:.3f} (n = {gold['n']})",
            file=sys.stderr,
        )


def _has_held_out_seed_pairs(workspace: Workspace) -> bool:
    return workspace.manifest("seed") is not None and "test" in set(
        workspace.read("seed", ["split"])["split"].to_pylist()
    )


def _measure_seed_pairs(
    workspace: Workspace, recipe: Recipe, run: str, folders: dict[str, str], base: str
) -> None:
    """Measure each iterate's implicit reward against the base model on the test split of the seed pairs."""
    from drift_data.workspace import locate_output
    from drift_train.evaluate.stage import evaluate_heldout
    from pipelines.runs import BASE

    train = recipe.loop.train
    for label, model in folders.items():
        if label != BASE:
            evaluate_heldout(workspace, run, label, model, base, train.beta, train.max_length)
            results = workspace.require(locate_output(run, label, "heldout")).results
            print(f"{label}: held-out seed pairs: {results}", file=sys.stderr)
