"""Draws charts as SVG images inside a page, in the colours and the font of the pages.

Matplotlib draws with stand-in colours. CSS variables replace them, so that a chart follows light and dark mode. A chart
refers to nothing outside itself.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import pairwise

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float]]
# Stand-in colours and the CSS variables that replace them. A chart uses no other colour.
INK, MUTED, LINE, FIRST, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", FIRST: "--first", SECOND: "--second"}
_SIZE_INCHES = (3.6, 2.3)  # width and height: small enough to stay readable on a phone
# Most points of a curve that are drawn. Neighbouring points of a longer curve are averaged.
_MAX_POINTS = 300
_STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, small, in the page's font
    "font.family": "DejaVu Sans",  # comes with Matplotlib; a browser uses the font of `_read_style`
    "font.size": 9,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "text.color": INK,
    "text.parse_math": False,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


@dataclass
class Plot:
    """What a chart shows besides its curves."""

    name: str  # makes the ids in the SVG the same in every run
    summary: str  # what the chart shows, in words, for people who do not see it
    x_label: str = "step"
    reference: float | None = None  # y of a horizontal line to compare with
    breaks: Sequence[tuple[float, str]] = field(default_factory=list)  # (x where a part begins, its name)
    y_range: tuple[float, float] | None = None  # y axis from, to; None: as far as the curves go


def draw_lines(plot: Plot, curves: Mapping[str, Curve]) -> Markup:
    """Return a chart of one to three named curves over x."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _make_figure(plot)
        for (name, curve), colour, style in zip(
            curves.items(), (FIRST, SECOND, MUTED), ("-", (0, (4, 1.5)), (0, (1, 1.2))), strict=False
        ):
            for part in _cut_at_breaks(curve, [x for x, _ in plot.breaks]):
                thin = _average_neighbours(part)
                marker = "o" if len(thin) == 1 else ""
                axes.plot(
                    *zip(*thin, strict=True),
                    color=colour,
                    linestyle=style,
                    lw=1.6,
                    marker=marker,
                    ms=3,
                    label=name,
                )
                name = "_"  # Matplotlib leaves such names out of the legend: one entry a curve
        if len(curves) > 1:
            axes.legend(loc="best", fontsize=8, handlelength=1.6)
        return _render(figure, plot)


def draw_histogram(plot: Plot, groups: Mapping[str, Sequence[float]]) -> Markup:
    """Return a histogram of one or two named groups of numbers, as outlines over the same bins."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _make_figure(plot)
        everything = [value for values in groups.values() for value in values]
        low, high = min(everything), max(everything)
        count = int(min(24, max(1, high - low + 1)))
        edges = [low - 0.5 + (high - low + 1) * n / count for n in range(count + 1)]
        for (name, values), colour, style in zip(
            groups.items(), (FIRST, SECOND), ("-", (0, (4, 1.5))), strict=False
        ):
            axes.hist(values, bins=edges, histtype="step", color=colour, linestyle=style, lw=1.6, label=name)
        axes.legend(loc="best", fontsize=8, handlelength=1.6)
        return _render(figure, plot)


def draw_scores(plot: Plot, values: Sequence[tuple[str, float, float]]) -> Markup:
    """Return a chart of named values, each with a bar of two standard errors to both sides."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _make_figure(plot)
        places = range(len(values))
        axes.errorbar(
            places,
            [mean for _, mean, _ in values],
            yerr=[2 * error for _, _, error in values],
            color=FIRST,
            ecolor=FIRST,
            marker="o",
            ms=5,
            lw=1,
            linestyle=(0, (1, 2)),
            elinewidth=1.6,
            capsize=3,
        )
        axes.set_xticks(list(places), [name for name, _, _ in values])
        axes.margins(x=0.15)
        return _render(figure, plot)


def _make_figure(plot: Plot) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, dpi=100, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(plot.x_label)
    axes.tick_params(length=3)
    axes.grid(axis="y", color=LINE, lw=0.5)
    axes.set_axisbelow(True)
    if plot.y_range is not None:
        axes.set_ylim(*plot.y_range)
    if plot.reference is not None:
        axes.axhline(plot.reference, color=MUTED, lw=1, linestyle=(0, (2, 2)))
    for start, name in plot.breaks:
        axes.axvline(start, color=LINE, lw=0.8)
        axes.annotate(
            name, (start, 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
            va="bottom", fontsize=8, color=MUTED,
        )  # fmt: skip
    return figure, axes


def _cut_at_breaks(curve: Curve, starts: Sequence[float]) -> list[Curve]:
    """Return the parts of a curve between breaks, so that no line joins two iterations."""
    bounds = [*starts, float("inf")]
    cut = [[point for point in curve if low <= point[0] < high] for low, high in pairwise(bounds)]
    return [part for part in cut if part] if starts else [curve]


def _average_neighbours(curve: Curve) -> Curve:
    """Return at most `_MAX_POINTS` points, each the mean of neighbouring points of the curve."""
    size = -(-len(curve) // _MAX_POINTS)
    groups = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _render(figure: Figure, plot: Plot) -> Markup:
    """Return the figure as an <img> element that holds its SVG.

    The SVG is a document of its own, so ids and styles of two charts on a page cannot clash.
    """
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": plot.name}):
        figure.savefig(
            out,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace("<defs>", f"<style>{_read_style()}</style><defs>", 1)
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    data = b64encode(svg.encode()).decode()
    width, height = (round(100 * inches) for inches in _SIZE_INCHES)
    return Markup(
        '<img class="chart" src="data:image/svg+xml;base64,{}" alt="{}" width="{}" height="{}">'
    ).format(data, plot.summary, width, height)


@cache
def _read_style() -> str:
    """Return the style sheet of every chart: the colours of the pages and their font."""
    colours = files("drift_data.html").joinpath("colours.css").read_text(encoding="utf-8")
    # Matplotlib writes its own font into each element, so the rule needs `!important`.
    return f"{colours} text {{ font-family: system-ui, sans-serif !important; }}"
