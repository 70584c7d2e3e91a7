"""The quality report as one HTML page with the look of all reports. Knows how things look, not how they are counted."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from drift_data.calibrate.bootstrap import Estimate
from drift_data.calibrate.excerpts import Cell
from drift_data.calibrate.summary import Quality
from drift_data.calibrate.thresholds import Choice, Point
from drift_data.html import charts
from drift_data.html.environment import environment
from drift_data.schema import DSAT, LABELS, SAT

_ROWS = 40  # thresholds shown of each label
# Figure → what it is called: against gold, and between two judges, where nothing is right or wrong.
GOLD_FIGURES = {
    "accuracy": "accuracy",
    "kappa": "κ, three labels",
    "kappa_dsat": "κ, DSAT or not",
    "macro_f1": "macro-F1, three labels",
    "macro_f1_present": "macro-F1, labels seen",
} | {
    f"{figure}_{label}": f"{label}: {title}"
    for label in (DSAT, SAT, "NEUTRAL")
    for figure, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
}
_JUDGES = {
    "accuracy": "same label",
    "kappa": "κ, three labels",
    "kappa_dsat": "κ, DSAT or not",
} | {f"f1_{label}": f"{label}: share of agreement" for label in (DSAT, SAT, "NEUTRAL")}


def figure_titles(quality: Quality) -> dict[str, str]:
    """Return the figures to show, in order, with their titles."""
    return GOLD_FIGURES if quality.other_is_gold else _JUDGES


def interval(found: Estimate, digits: int = 3) -> str:
    """Return a figure with its interval as text, such as "0.512 (0.430–0.587)"."""
    if found.value is None:
        return "–"
    if found.low is None:
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} ({found.low:.{digits}f}–{found.high:.{digits}f})"


def render(quality: Quality, cells: Sequence[Cell], characters: int) -> str:
    """Return the page.

    Args:
        quality: what it says.
        cells: turns of the confusion table, in the order in which they are shown.
        characters: of a message that are shown.
    """
    pages = environment(characters, "drift_data.calibrate")
    pages.filters["interval"] = interval
    return pages.get_template("quality.html.jinja").render(
        quality=quality,
        titles=figure_titles(quality),
        counts={(cell.other, cell.given): cell for cell in cells},
        cells=cells,
        labels=LABELS,
        curves=_curves(quality.choice) if quality.choice else [],
    )


def _curves(choice: Choice) -> list[tuple[str, float, list[Point], Markup | None]]:
    """Return for each label: its threshold, the points to show, and precision over recall as a chart."""
    found = []
    for label in (DSAT, SAT):
        points, chosen = choice.curves[label], getattr(choice.chosen, label.lower())
        kept = {chosen, getattr(choice.present, label.lower())}
        step = -(-len(points) // _ROWS)
        shown = [point for at, point in enumerate(points) if at % step == 0 or point.threshold in kept]
        curve = sorted(
            (point.recall, point.precision)
            for point in points
            if point.recall is not None and point.precision is not None
        )
        found.append(
            (label, chosen, shown, _chart(label, chosen, points, curve) if len(set(curve)) > 1 else None)
        )
    return found


def _chart(label: str, chosen: float, points: Sequence[Point], curve: charts.Curve) -> Markup:
    at = next(point for point in points if point.threshold == chosen)
    summary = f"Precision of {label} over its recall, for {len(points)} thresholds; at {chosen:g}: "
    summary += " and ".join(
        "none" if value is None else f"{value:.3f}" for value in (at.precision, at.recall)
    )
    return charts.lines(charts.Plot(f"curve{label}", summary, x_label="recall"), {"precision": curve})
