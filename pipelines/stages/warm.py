"""`make warm`: DPO on the seed pairs → M0."""

from pipelines.options import RECIPE, WORK, BaseModelName, RecipeName, Run, Set, Work, open_workspace


def warm(
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    model: BaseModelName = None,
    run: Run = None,
    overrides: Set = None,
) -> None:
    """Train M0: DPO on the seed pairs."""
    workspace, loaded = open_workspace(work, recipe, overrides, model=model)
    from drift_train import loop
    from pipelines.runs import find_base_model, name_run, write_cards

    name = name_run(loaded, run)
    loop.warm(workspace, name, find_base_model(workspace, loaded), loaded.loop)
    write_cards(workspace, loaded, name, 0)
