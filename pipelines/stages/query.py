"""`make query`: DuckDB over the workspace, with SQL of one's own or a canned query of `pipelines/sql/`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.caller import in_words_of_caller, tell
from pipelines.options import WORK, Work

if TYPE_CHECKING:
    from drift_data.workspace import Workspace

SQL_FOLDER = Path(__file__).parents[1] / "sql"  # folder of the canned queries


def query(
    sql: Annotated[str | None, typer.Option(help="SQL over the workspace's views.")] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of a canned query; without --sql and --name the names are listed."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the result: .csv, .parquet or .json.")] = None,
    work: Work = WORK,
) -> None:
    """Run DuckDB over the workspace, with one view for each table."""
    from drift_data.query.query import ALL_ROWS_HINT, load_canned_queries, save_query, show_query
    from drift_data.workspace import UserError, Workspace

    workspace = Workspace(work)
    canned = load_canned_queries(SQL_FOLDER)
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
        show_query(workspace, sql, hint=in_words_of_caller(ALL_ROWS_HINT))
    else:
        print(f"{out}: {save_query(workspace, sql, out):,} rows")


def _list_queries(workspace: Workspace, canned: dict[str, str]) -> None:
    from drift_data.query.query import describe_query, run_query

    tell("Canned queries (Q=name):")
    for name, sql in canned.items():
        print(f"  {name:22} {describe_query(sql)}")
    views = run_query(workspace, "select name from (show tables) order by 1")[0].to_pylist()
    tell(f'Views (SQL="select … from …"): {", ".join(views)}')
