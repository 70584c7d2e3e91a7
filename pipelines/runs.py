"""Names the runs of a workspace, finds their base model, and writes the cards of their models."""

from collections.abc import Mapping

from drift_data.publish.cards.model import write_model_card
from drift_data.workspace import Output, Workspace, name_model
from pipelines.recipe import TINY, Recipe

BASE = "base"  # folder of the tiny base model; also the name of the base model's evaluation
PRETRAIN = "simulated/pretrain"  # table of chats that the tiny model learns from


def name_run(recipe: Recipe, run: str | None) -> str:
    """Return the folder name of a run: the one given, else the recipe's name and the method, e.g. demo-drift."""
    return run or f"{recipe.name}-{recipe.loop.method}"


def list_models(n: int) -> list[str]:
    """Return the names of the base model and of all iterates up to M_n: base, iter0, …"""
    return [BASE, *(name_model(k) for k in range(n + 1))]


def find_base_model(workspace: Workspace, recipe: Recipe) -> str:
    """Return the base model's folder or Hub id; the tiny model is made and pre-trained when it is missing."""
    if recipe.model != TINY:
        return recipe.model

    def build(outputs: Mapping[str, Output]) -> None:
        from drift_train.models.tiny import make_tiny  # loads torch, which a finished model does not need

        rows = workspace.read(PRETRAIN).to_pylist()
        chats = ((row["phase"], row["messages"]) for row in rows)
        outputs[BASE].results = make_tiny(chats, outputs[BASE].folder, recipe.tiny)

    workspace.run("tiny", [BASE], build, options=recipe.tiny.model_dump(), inputs=[PRETRAIN])
    return BASE


def write_cards(workspace: Workspace, recipe: Recipe, run: str, n: int) -> None:
    """Write the cards of M0 … M_n, with all that the workspace holds about these models so far."""
    for k in range(n + 1):
        write_model_card(workspace, run, k, recipe.alarms)
