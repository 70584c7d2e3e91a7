"""`make review`: a page in the browser to read judged turns; what a person decides becomes that person's labels."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.options import RECIPE, WORK, RecipeName, RubricFile, Set, Work, open_workspace

if TYPE_CHECKING:
    from drift_data.review.session import ReviewSession


def review(
    labels: Annotated[
        str | None, typer.Option(help="Labels to review, e.g. local; default: the labels made last.")
    ] = None,
    reviewer: Annotated[
        str | None,
        typer.Option(help="Whose labels the decisions become: labels/human-NAME; default: the login's name."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Other labels; with order=disagreements the turns where the two differ come first."
        ),
    ] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Hide what the judge says until the turn is decided.")
    ] = False,
    chosen: Annotated[
        str, typer.Option("--filter", help='What is shown first, e.g. "order=uncertain language=English".')
    ] = "",
    port: Annotated[
        int | None, typer.Option(help="Port of 127.0.0.1; 0: any free one.", min=0, max=65535)
    ] = None,
    rubric: RubricFile = None,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    overrides: Set = None,
) -> None:
    """Read judged turns in the browser, and accept or change their labels. Ctrl-C ends it."""
    used = {} if rubric is None else {"label.rubric": str(rubric)}
    workspace, loaded = open_workspace(work, recipe, overrides, **used)
    from drift_data.judge.rubric import load_rubric
    from drift_data.labels.reviewer import make_reviewer
    from drift_data.labels.tables import find_labels, find_latest_labels
    from drift_data.review.selection import parse_filter
    from drift_data.review.serve import serve_review
    from drift_data.review.session import ReviewOptions, ReviewSession
    from drift_data.workspace import UserError

    options = ReviewOptions(
        labels=find_labels(workspace, labels) if labels else find_latest_labels(workspace),
        reviewer=make_reviewer(reviewer if reviewer is not None else _read_login()),
        rubric=load_rubric(loaded.label.rubric),
        against=find_labels(workspace, against, "AGAINST") if against else None,
        blind=blind,
    )
    start = parse_filter(chosen)
    session = ReviewSession(workspace, options)
    # Raises before the page is served if the labels lack what the filter orders by.
    session.queue.find_next(start, session.codes)
    serve_review(session, start, port, lambda address: _print_address(session, address))
    if session.pending:
        raise UserError(
            f"All decisions are in {session.journal.path}, but {options.reviewer.table} does not have the last of "
            f"them: {session.pending} Then run `make review` again."
        )
    print(f"\n{workspace.path(options.reviewer.table)}: {len(session.reviewed):,} turns reviewed")


def _print_address(session: ReviewSession, address: str) -> None:
    options = session.options
    print(f"review of {options.labels} as {options.reviewer.judge}: {len(session.queue):,} labelled turns")
    print(f"open {address}\nCtrl-C ends it; every decision is saved at once", flush=True)


def _read_login() -> str:
    from drift_data.workspace import UserError

    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise UserError("This login has no name. Give one with REVIEWER=.") from error
