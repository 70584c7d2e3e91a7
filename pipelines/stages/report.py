"""`make report`: one self-contained HTML page of a run."""

from pipelines.options import RECIPE, WORK, RecipeName, Run, Set, Work, open_workspace


def report(work: Work = WORK, recipe: RecipeName = RECIPE, run: Run = None, overrides: Set = None) -> None:
    """Write one self-contained HTML page of a run."""
    workspace, loaded = open_workspace(work, recipe, overrides)
    from drift_data.report.options import ReportOptions
    from drift_data.report.page import write_report
    from pipelines.runs import name_run

    name = name_run(loaded, run)
    out = workspace.path("runs") / name / "report.html"
    settings = loaded.model_dump(mode="json")
    path = write_report(workspace, name, out, settings, ReportOptions(alarms=loaded.alarms))
    print(f"report: {path.resolve()}")
