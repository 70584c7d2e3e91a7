"""The review stage: a page in the browser to read judged turns; what is decided becomes a person's labels."""

import getpass

from drift_data.judge.rubric import load_rubric
from drift_data.labels.reviewer import reviewer as reviewer_of
from drift_data.labels.tables import labels_chosen, latest_labels
from drift_data.review.selection import parse
from drift_data.review.serve import serve
from drift_data.review.session import Options, Session
from drift_data.workspace import UserError, Workspace
from pipelines.recipe import Recipe


def review(
    workspace: Workspace,
    recipe: Recipe,
    labels: str | None,
    reviewer: str | None,
    against: str | None,
    *,
    blind: bool,
    chosen: str,
    port: int | None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        workspace: holds `conversations` and the labels.
        recipe: its rubric lists the items.
        labels: to review, "local" or "labels/local"; by default those made last.
        reviewer: a name; by default the one of the login.
        against: other labels, to begin where the two differ.
        blind: hide what the judge says until it is decided.
        chosen: what is shown first, such as "order=uncertain label=DSAT".
        port: to listen on.
    """
    options = Options(
        labels=labels_chosen(workspace, labels) if labels else latest_labels(workspace),
        reviewer=reviewer_of(reviewer if reviewer is not None else _login()),
        rubric=load_rubric(recipe.label.rubric),
        against=labels_chosen(workspace, against, "AGAINST") if against else None,
        blind=blind,
    )
    start = parse(chosen)
    session = Session(workspace, options)
    session.queue.step(start, session.codes)  # an order that these labels cannot have is told here
    serve(session, start, port, lambda address: _say(session, address))
    if session.pending:
        raise UserError(
            f"All decisions are in {session.journal.path}, but {options.reviewer.table} does not have the last of "
            f"them: {session.pending} Then run `make review` again."
        )
    print(f"\n{workspace.path(options.reviewer.table)}: {len(session.reviewed):,} turns reviewed")


def _say(session: Session, address: str) -> None:
    options = session.options
    print(f"review of {options.labels} as {options.reviewer.judge}: {len(session.queue):,} labelled turns")
    print(f"open {address}\nCtrl-C ends it; every decision is saved at once", flush=True)


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise UserError("This login has no name. Give one with REVIEWER=.") from error
