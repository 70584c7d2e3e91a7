"""Where a run's folders lie in a workspace."""

from pipelines.recipe import Recipe

BASE = "base"  # the tiny base model; also the name of the base model's evaluation


def run_name(recipe: Recipe, run: str | None) -> str:
    """Return the run's folder name: the one given, or recipe-method."""
    return run or f"{recipe.name}-{recipe.loop.method}"


def models(n: int) -> list[str]:
    """Return the labels of the base model and of all iterates up to M_n: base, iter0, …"""
    return [BASE, *(f"iter{k}" for k in range(n + 1))]
