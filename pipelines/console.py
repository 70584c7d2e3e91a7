"""Prints what stages report when they are done: row counts, and short tables of what their report pages say."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.box import SIMPLE
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.caller import in_words_of_caller

if TYPE_CHECKING:  # each function imports what its own table needs
    from drift_data.calibrate.summary import Comparison, Quality
    from drift_data.distill.summary import DistillReport
    from drift_data.report.options import AlarmOptions
    from drift_data.workspace import Manifest, Workspace
    from pipelines.recipe import Recipe

# Rows of the table of `make distill`, named as in its report.
_DISTILLED_FIGURES = ("precision_DSAT", "recall_DSAT", "f1_DSAT", "kappa_dsat", "kappa", "macro_f1")
# Columns of the health table: the last iterations only, since more do not fit beside each other.
_MOST_ITERATIONS = 6
# Verdict on a setting (`reference.SettingVerdict`) → style of its row.
_COMPARISON_STYLES = {"same": "", "named": "yellow", "ours": "dim", "unnamed": "bold red"}


def print_counts(workspace: Workspace, *names: str) -> None:
    """Print how many rows each named folder holds, and how many rows were left out for which reason."""
    for name in names:
        manifest = workspace.manifest(name)
        if manifest is not None:
            print(f"{workspace.path(name)}: {_describe_counts(manifest)}")


def _describe_counts(manifest: Manifest) -> str:
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in manifest.dropped.items())
    return f"{manifest.rows_out:,} rows" + (f"; left out: {dropped}" if dropped else "")


def print_quality(quality: Quality, console: Console) -> None:
    """Print in short what the report of `make calibrate` says."""
    from drift_data.calibrate.page import choose_metric_titles, format_estimate
    from drift_data.calibrate.training_overlap import WARNING_PREFIX

    # The report alone shows the figures of a judge that calls everything NEUTRAL.
    views = [view for view in quality.views if not view.title.startswith("all NEUTRAL")]
    table = _start_wide_table(f"{quality.labels} against {quality.other}", views)
    table.add_row("turns (conversations)", *(f"{v.turns:,} ({v.conversations:,})" for v in views))
    for label in ("DSAT", "SAT", "NEUTRAL"):
        title = f"{label}: given / true" if quality.other_is_gold else f"{label}: these / other"
        table.add_row(title, *(f"{view.given[label]:,} / {view.true[label]:,}" for view in views))
    for name, title in choose_metric_titles(quality).items():
        table.add_row(title, *(format_estimate(view.figures[name], 2) for view in views))
    console.print(table)
    for note in quality.notes:
        _print_line(console, note, style="bold" if note.startswith(WARNING_PREFIX) else None)
    for reason, count in quality.match.only_gold.items():
        _print_line(console, f"{count:,} turns of {quality.other} are left out: {reason}")
    if quality.choice is not None:
        now, new = quality.choice.present, quality.choice.chosen
        _print_line(console, f"thresholds: sat {now.sat:g} → {new.sat:g}, dsat {now.dsat:g} → {new.dsat:g}")


def print_distilled(result: DistillReport, console: Console) -> None:
    """Print in short what the report of `make distill` says."""
    from drift_data.calibrate.page import GOLD_METRIC_TITLES

    # The last view is that of one label for all turns, which the report alone shows.
    held_out = [view.model_copy(update={"title": "distilled, held out"}) for view in result.held_out[:1]]
    views = result.views[:-1] + held_out
    table = _start_wide_table(f"local:{result.name} against {result.teacher}", views)
    table.add_row("turns", *(f"{v.turns:,}" for v in views))
    table.add_row("conversations", *(f"{v.conversations:,}" for v in views))
    table.add_row("DSAT of the teacher", *(f"{v.true['DSAT']:,}" for v in views))
    table.add_row("DSAT given", *(f"{v.given['DSAT']:,}" for v in views))
    for name in _DISTILLED_FIGURES:
        table.add_row(GOLD_METRIC_TITLES[name], *(_show_figure(view, name) for view in views))
    console.print(table)
    for line in (*result.notes, *result.choice.notes, *_describe_savings(result)):
        _print_line(console, line)
    present, chosen = result.choice.present.dsat, result.choice.chosen.dsat
    if chosen != present:
        console.print(f"threshold of DSAT: {present:g} → {chosen:g} (thresholds.yaml)", soft_wrap=True)


def _show_figure(view: Comparison, name: str) -> str:
    """Return a figure of a view as text, with its interval if the view is one of the distilled classifier."""
    from drift_data.calibrate.bootstrap import Estimate
    from drift_data.calibrate.page import format_estimate

    figure = view.figures[name]
    return format_estimate(figure if view.title.startswith("distilled") else Estimate(value=figure.value), 2)


def _describe_savings(result: DistillReport) -> list[str]:
    money = result.money
    if money is None:
        return []
    line = (
        f"{money.requests:,} requests labelled {money.conversations:,} conversations; all "
        f"{money.all_conversations:,} would take {money.all_requests:,}: {money.saved_requests:,} are saved"
    )
    if money.price is not None:
        line += f", {money.saved_price:,.4g} of {money.all_price:,.4g} in money"
    return [line + "."]


def print_health(workspace: Workspace, run: str, options: AlarmOptions, console: Console) -> None:
    """Print how a run is doing: a column for each of the last iterations, and every alarm with its threshold."""
    from drift_data.chats.safe_text import escape_invisible
    from drift_data.report.health import check_health, read_health, tabulate_health

    rows = read_health(workspace, run)
    last = rows[-_MOST_ITERATIONS:]
    table = Table(title=Text(f"Health of {escape_invisible(run, 60)}"), title_justify="left")
    table.add_column("trained")
    for row in last:
        table.add_column(row.heading, justify="right")
    for name, cells in tabulate_health(last):
        table.add_row(name, *(Text(cell) for cell in cells))
    console.print(table)
    if stale := [row for row in rows if row.stale]:
        names, n = ", ".join(row.model for row in stale), stale[-1].iteration
        command = in_words_of_caller(f"`make iter N={n}`" if n else "`make warm`")
        line = f"Stale, with no alarms: {names}. What they were made from has changed; {command} makes them again."
        console.print(Text(line, style="bold"), soft_wrap=True)
    checks = check_health(rows, options)
    alarms = [check for check in checks if check.alarm]
    for check in alarms:
        line = f"▲ {check.where}: {check.name}: {check.value}; alarm {check.threshold}"
        console.print(Text(line, style="bold red"), soft_wrap=True)
    if checks and not alarms:
        console.print(f"No alarm in {len(checks)} checks.")


def print_recipe(recipe: Recipe, console: Console) -> None:
    """Print the settings of a recipe beside the published ones; those that differ have a colour and are counted."""
    from pipelines.reference import compare

    lines = compare(recipe)
    table = Table(title=f"{recipe.name}, method {recipe.loop.method}", title_justify="left")
    for column in ("setting", "here", "paper or release", "why it differs, or what it is for"):
        table.add_column(column, overflow="fold")
    for line in lines:
        published = f"{line.published} ({line.source})" if line.source else line.published
        cells = (line.name, line.here, published, line.note)
        table.add_row(*(Text(cell, style=_COMPARISON_STYLES[line.verdict]) for cell in cells))
    console.print(table)
    counts = Counter(line.verdict for line in lines)
    console.print(
        f"{len(lines)} settings: {counts['same']} as published, {counts['named']} differ for the reason given, "
        f"{counts['ours']} are ours alone, {counts['unnamed']} differ without a reason."
    )


def print_options(console: Console) -> None:
    """Print every option of a recipe in two lines: key, default, possible values and source, then the meaning."""
    from pipelines.option_list import list_option_groups

    for group in list_option_groups():
        title = f"{group.key}: " if group.key else ""
        console.print(Text(f"{title}{group.purpose}", style="bold underline"), soft_wrap=True)
        for option in group.options:
            default = "required" if option.default is None else f"= {option.default}"
            values = "; ".join(filter(None, (option.values, option.origin)))
            line = Text.assemble((option.key, "bold"), f" {default}  ", (f"({values})", "dim"))
            console.print(line, soft_wrap=True)
            meaning = option.meaning + (f" ({option.unit})" if option.unit else "")
            console.print(Padding(Text(meaning), (0, 0, 0, 4)))
        console.print()


def _start_wide_table(title: str, views: list[Comparison]) -> Table:
    """Return a table with a column of names, and one for each view under the view's title."""
    table = Table(title=title, box=SIMPLE, pad_edge=False, show_edge=False)
    table.add_column(no_wrap=True)
    for view in views:
        table.add_column(view.title.replace(", ", ",\n"), justify="right")
    return table


def _print_line(console: Console, line: str, style: str | None = None) -> None:
    console.print(in_words_of_caller(line), markup=False, soft_wrap=True, style=style)
