"""Shows in the terminal how a run is doing: a column an iteration, and the alarms below."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drift_data.chats.safe_text import visible
from drift_data.report.health import check_health, read_health, tabulate_health
from drift_data.report.options import AlarmOptions
from drift_data.workspace import Workspace

_COLUMNS = 6  # the last iterations: more do not fit beside each other


def show_health(workspace: Workspace, run: str, options: AlarmOptions, console: Console) -> None:
    """Print the figures of the last iterations and every alarm of the run, with its threshold."""
    rows = read_health(workspace, run)
    shown = rows[-_COLUMNS:]
    table = Table(title=Text(f"Health of {visible(run, 60)}"), title_justify="left")
    table.add_column("trained")
    for row in shown:
        table.add_column(row.heading, justify="right")
    for name, cells in tabulate_health(shown):
        table.add_row(name, *(Text(cell) for cell in cells))
    console.print(table)
    if stale := [row for row in rows if row.stale]:
        names, n = ", ".join(row.model for row in stale), stale[-1].iteration
        again = f"`make iter N={n}`" if n else "`make warm`"
        line = (
            f"Stale, with no alarms: {names}. What they were made from has changed; {again} makes them again."
        )
        console.print(Text(line, style="bold"), soft_wrap=True)
    checks = check_health(rows, options)
    alarms = [check for check in checks if check.alarm]
    for check in alarms:
        line = f"▲ {check.where}: {check.name}: {check.value}; alarm {check.threshold}"
        console.print(Text(line, style="bold red"), soft_wrap=True)
    if checks and not alarms:
        console.print(f"No alarm in {len(checks)} checks.")
