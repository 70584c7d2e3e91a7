"""The stages from raw logs to training examples but labelling: simulate, convert, seed."""

from collections.abc import Sequence

from drift_data.convert.stage import convert as convert_logs
from drift_data.labels.tables import labels_chosen, latest_labels
from drift_data.mine.stage import mine
from drift_data.simulate import simulate as simulate_logs
from drift_data.workspace import Manifest, Workspace
from pipelines.recipe import Recipe


def say(workspace: Workspace, *names: str) -> None:
    """Print what the named folders hold."""
    for name in names:
        manifest = workspace.manifest(name)
        if manifest is not None:
            print(f"{workspace.path(name)}: {_counts(manifest)}")


def _counts(manifest: Manifest) -> str:
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in manifest.dropped.items())
    return f"{manifest.rows_out:,} rows" + (f"; left out: {dropped}" if dropped else "")


def simulate(workspace: Workspace, recipe: Recipe) -> None:
    """Make chat logs of simulated users, their true satisfaction, and held-out prompts."""
    simulate_logs(workspace, recipe.simulate)
    say(workspace, "simulated/logs", "simulated/heldout")


def convert(workspace: Workspace, recipe: Recipe, inputs: Sequence[str]) -> None:
    """Turn raw logs into tables; simulated logs are made first when they are missing."""
    if recipe.source == "simulated" and not inputs:
        simulate(workspace, recipe)
    convert_logs(workspace, recipe.source, inputs, recipe.clean, recipe.mine.test_fraction)
    say(workspace, "conversations", f"labels/{recipe.source}", "preferences")


def seed(workspace: Workspace, recipe: Recipe, labels: str | None) -> None:
    """Mine the labels of one judge: "local" or "labels/local"; by default the last made."""
    mine(workspace, labels_chosen(workspace, labels) if labels else latest_labels(workspace), recipe.mine)
    say(workspace, "dsat", "sat", "seed")
