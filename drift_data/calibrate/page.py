"""Renders the quality report as one HTML page with the look of all reports."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from drift_data.calibrate.bootstrap import Estimate
from drift_data.calibrate.excerpts import ConfusionCell
from drift_data.calibrate.summary import Quality
from drift_data.calibrate.thresholds import ThresholdChoice, ThresholdPoint
from drift_data.html import charts
from drift_data.html.environment import make_environment
from drift_data.schema import DSAT, LABELS, SAT

_MAX_THRESHOLD_ROWS = (
    40  # most thresholds that the page lists for each label, besides the chosen and the present one
)
# Metric of `metrics.compute_metrics` → title on the page, for labels measured against gold.
GOLD_METRIC_TITLES = {
    "accuracy": "accuracy",
    "kappa": "κ, three labels",
    "kappa_dsat": "κ, DSAT or not",
    "macro_f1": "macro-F1, three labels",
    "macro_f1_present": "macro-F1, labels seen",
} | {
    f"{metric}_{label}": f"{label}: {title}"
    for label in (DSAT, SAT, "NEUTRAL")
    for metric, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
}
# Metric → title on the page, for two judges whose labels are compared; neither counts as the truth.
_AGREEMENT_METRIC_TITLES = {
    "accuracy": "same label",
    "kappa": "κ, three labels",
    "kappa_dsat": "κ, DSAT or not",
} | {f"f1_{label}": f"{label}: share of agreement" for label in (DSAT, SAT, "NEUTRAL")}


def choose_metric_titles(quality: Quality) -> dict[str, str]:
    """Return the metrics to show, in order, with their titles."""
    return GOLD_METRIC_TITLES if quality.other_is_gold else _AGREEMENT_METRIC_TITLES


def format_estimate(estimate: Estimate, digits: int = 3) -> str:
    """Return a figure with its interval as text, such as "0.512 (0.430–0.587)"."""
    if estimate.value is None:
        return "–"
    if estimate.low is None:
        return f"{estimate.value:.{digits}f}"
    return f"{estimate.value:.{digits}f} ({estimate.low:.{digits}f}–{estimate.high:.{digits}f})"


def render_quality_page(quality: Quality, cells: Sequence[ConfusionCell], characters: int) -> str:
    """Return the page.

    Args:
        quality: the report.
        cells: turns of each cell of the confusion table, in the order in which the page shows them.
        characters: number of characters to show of a message.
    """
    pages = make_environment(characters, "drift_data.calibrate")
    pages.filters["estimate"] = format_estimate
    return pages.get_template("quality.html.jinja").render(
        quality=quality,
        titles=choose_metric_titles(quality),
        counts={(cell.other, cell.given): cell for cell in cells},
        cells=cells,
        labels=LABELS,
        curves=_make_curves(quality.choice) if quality.choice else [],
    )


def _make_curves(choice: ThresholdChoice) -> list[tuple[str, float, list[ThresholdPoint], Markup | None]]:
    """Return (label, chosen threshold, points to show, chart of precision over recall) for DSAT and SAT."""
    curves = []
    for label in (DSAT, SAT):
        points, chosen = choice.curves[label], getattr(choice.chosen, label.lower())
        always_shown = {chosen, getattr(choice.present, label.lower())}
        step = -(-len(points) // _MAX_THRESHOLD_ROWS)
        shown = [
            point for at, point in enumerate(points) if at % step == 0 or point.threshold in always_shown
        ]
        curve = sorted(
            (point.recall, point.precision)
            for point in points
            if point.recall is not None and point.precision is not None
        )
        curves.append(
            (label, chosen, shown, _draw_curve(label, chosen, points, curve) if len(set(curve)) > 1 else None)
        )
    return curves


def _draw_curve(label: str, chosen: float, points: Sequence[ThresholdPoint], curve: charts.Curve) -> Markup:
    """Return the chart of precision over recall; `curve` holds (recall, precision), `chosen` is the chosen threshold."""
    at = next(point for point in points if point.threshold == chosen)
    summary = f"Precision of {label} over its recall, for {len(points)} thresholds; at {chosen:g}: "
    summary += " and ".join(
        "none" if value is None else f"{value:.3f}" for value in (at.precision, at.recall)
    )
    return charts.draw_lines(charts.Plot(f"curve{label}", summary, x_label="recall"), {"precision": curve})
