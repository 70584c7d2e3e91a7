"""`make simulate`: chat logs of simulated users, for a story that needs no real logs."""

from pipelines.options import RECIPE, WORK, RecipeName, Set, Work, open_workspace


def simulate(work: Work = WORK, recipe: RecipeName = RECIPE, overrides: Set = None) -> None:
    """Make chat logs of simulated users, their true satisfaction, and held-out prompts."""
    workspace, loaded = open_workspace(work, recipe, overrides)
    from drift_data.simulate import simulate as simulate_logs
    from pipelines.console import print_counts

    simulate_logs(workspace, loaded.simulate)
    print_counts(workspace, "simulated/logs", "simulated/heldout")
