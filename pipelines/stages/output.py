"""The stages that hand results to people: report, query, export, publish."""

import os
from pathlib import Path

from rich.console import Console

from drift_data.publish.model import publish_model
from drift_data.publish.release import export_release
from drift_data.publish.stage import publish as publish_tables
from drift_data.query.query import canned_queries, describe_query, run_query, save_query, show_query
from drift_data.report.options import ReportOptions
from drift_data.report.page import write_report
from drift_data.workspace import UserError, Workspace
from pipelines.recipe import Recipe
from pipelines.stages.names import run_name

SQL = Path(__file__).parents[1] / "sql"


def report(workspace: Workspace, recipe: Recipe, run: str | None) -> None:
    """Write the page of a run and say where it lies."""
    name = run_name(recipe, run)
    out = workspace.path("runs") / name / "report.html"
    path = write_report(
        workspace, name, out, recipe.model_dump(mode="json"), ReportOptions(alarms=recipe.alarms)
    )
    print(f"report: {path.resolve()}")


def query(workspace: Workspace, sql: str | None, name: str | None, out: Path | None) -> None:
    """Run SQL or a canned query; with neither, list what there is."""
    canned = canned_queries(SQL)
    if sql is None and name is None:
        _list_queries(workspace, canned)
        return
    if sql is not None and name is not None:
        raise UserError("Give SQL= or Q=, not both.")
    if name is not None:
        if name not in canned:
            raise UserError(f"There is no canned query {name!r}. There are: {', '.join(canned)}.")
        sql = canned[name]
    assert sql is not None
    if out is None:
        show_query(workspace, sql)
    else:
        print(f"{out}: {save_query(workspace, sql, out):,} rows")


def _list_queries(workspace: Workspace, canned: dict[str, str]) -> None:
    console = Console()
    console.print("Canned queries (Q=name):")
    for name, sql in canned.items():
        console.print(f"  {name:22} {describe_query(sql)}", markup=False)
    views = run_query(workspace, "select name from (show tables) order by 1")[0].to_pylist()
    console.print(f'Views (SQL="select … from …"): {", ".join(views)}', markup=False)


def export(workspace: Workspace, out: Path) -> None:
    """Write the release layout."""
    export_release(workspace, out)
    print(f"release layout: {out.resolve()}")


def publish(workspace: Workspace, recipe: Recipe, repo: str, run: str | None, model: str | None) -> None:
    """Upload the mined tables, or a model of a run; the token is read from HF_TOKEN or from the Hub login."""
    from huggingface_hub import get_token

    endpoint = os.environ.get("HF_ENDPOINT")
    if model is not None:
        name = run_name(recipe, run)
        url = publish_model(
            workspace, repo, name, model, recipe.publish, recipe.alarms, get_token(), endpoint
        )
    else:
        options = recipe.publish.model_copy(update={"run": run} if run else {})
        url = publish_tables(workspace, repo, options, get_token(), endpoint)
    print(f"published: {url}")
