"""Shows a recipe before it is run: every setting beside what the paper and the release say. Loads and trains nothing."""

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.recipe import Recipe
from pipelines.reference import compare

_STYLES = {"same": "", "named": "yellow", "ours": "dim", "unnamed": "bold red"}


def show(recipe: Recipe, console: Console) -> None:
    """Print the settings, those that differ in colour, and how many do."""
    lines = compare(recipe)
    table = Table(title=f"{recipe.name}, method {recipe.loop.method}", title_justify="left")
    for column in ("setting", "here", "paper or release", "why it differs, or what it is for"):
        table.add_column(column, overflow="fold")
    for line in lines:
        published = f"{line.published} ({line.source})" if line.source else line.published
        cells = (line.name, line.here, published, line.note)
        table.add_row(*(Text(cell, style=_STYLES[line.verdict]) for cell in cells))
    console.print(table)
    counts = Counter(line.verdict for line in lines)
    console.print(
        f"{len(lines)} settings: {counts['same']} as published, {counts['named']} differ for the reason given, "
        f"{counts['ours']} are ours alone, {counts['unnamed']} differ without a reason."
    )
