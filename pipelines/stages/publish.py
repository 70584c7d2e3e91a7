"""`make publish`: data sets, or a model, to the Hub with a card in one commit."""

import os
from typing import Annotated

import typer

from pipelines.options import RECIPE, WORK, RecipeName, Run, Set, Work, open_workspace


def publish(
    repo: Annotated[str, typer.Option(help="owner/name on the Hub.")],
    model_of: Annotated[
        str | None, typer.Option(help="Instead of the data, publish a model of the run, e.g. iter2.")
    ] = None,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    run: Run = None,
    overrides: Set = None,
) -> None:
    """Upload dsat, sat, seed (and a run's pairs), or a trained model, with a card in one commit.

    The token is read from HF_TOKEN or from the Hub login.
    """
    workspace, loaded = open_workspace(work, recipe, overrides, offline="false")
    from huggingface_hub import get_token

    from drift_data.publish.model import publish_model
    from drift_data.publish.stage import publish_tables
    from pipelines.runs import name_run

    endpoint = os.environ.get("HF_ENDPOINT")
    if model_of is not None:
        name = name_run(loaded, run)
        url = publish_model(
            workspace, repo, name, model_of, loaded.publish, loaded.alarms, get_token(), endpoint
        )
    else:
        options = loaded.publish.model_copy(update={"run": run} if run else {})
        url = publish_tables(workspace, repo, options, get_token(), endpoint)
    print(f"published: {url}")
