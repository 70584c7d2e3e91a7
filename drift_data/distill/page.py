"""Renders the report of a distillation as one HTML page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from drift_data.calibrate.page import GOLD_METRIC_TITLES, format_estimate
from drift_data.calibrate.summary import Comparison
from drift_data.distill.cascade import RECOMMENDED_QUALITY, CascadeBand
from drift_data.distill.comparisons import DISTILLED_TITLE
from drift_data.distill.student import MIN_CONVERSATIONS, MIN_TURNS
from drift_data.distill.summary import DistillReport
from drift_data.html import charts
from drift_data.html.environment import make_environment

_UNIT_RANGE = (0.0, 1.03)  # range of an axis from 0 to 1; a line at 1 lies fully inside
MIN_BIN_TURNS = 10  # a tenth of the probability scale is drawn only if it has this many turns
_METRIC_TITLES = {
    name: title for name, title in GOLD_METRIC_TITLES.items() if name not in ("accuracy", "macro_f1_present")
}


def render_distill_page(result: DistillReport) -> str:
    """Return the page."""
    pages = make_environment(600, "drift_data.distill")
    pages.filters["estimate"] = format_estimate
    return pages.get_template("distill.html.jinja").render(
        result=result,
        titles=_METRIC_TITLES,
        precision_recall=_draw_precision_recall(result),
        calibration=_draw_calibration(result),
        cascade=_draw_cascade(result.cascade),
        min_bin_turns=MIN_BIN_TURNS,
        recommended_quality=RECOMMENDED_QUALITY,
        min_turns=MIN_TURNS,
        min_conversations=MIN_CONVERSATIONS,
    )


def _draw_precision_recall(result: DistillReport) -> Markup | None:
    """Return a chart of precision over recall of DSAT, student and baselines; None for fewer than two points."""
    if len(result.curves[DISTILLED_TITLE]) < 2:
        return None
    here = (result.held_out or result.views)[0].figures
    summary = (
        f"Precision of DSAT over its recall; {DISTILLED_TITLE} at {result.choice.present.dsat:g}: "
        f"{_format_value(here['precision_DSAT'].value)} and {_format_value(here['recall_DSAT'].value)}"
    )
    plot = charts.Plot("curve", summary, x_label="recall", y_range=_UNIT_RANGE)
    return charts.draw_lines(plot, {who: sorted(curve) for who, curve in result.curves.items() if curve})


def _draw_calibration(result: DistillReport) -> Markup | None:
    """Return a chart of the observed over the predicted share of DSAT; None for fewer than two points."""
    points = [
        (found.predicted, found.observed) for found in result.calibration if found.turns >= MIN_BIN_TURNS
    ]
    if len(points) < 2:
        return None
    summary = "Share of turns that are DSAT over the predicted probability: " + ", ".join(
        f"{observed:.2f} at {predicted:.2f}" for predicted, observed in points
    )
    plot = charts.Plot("calibration", summary, x_label="predicted probability")
    return charts.draw_lines(plot, {"share that is DSAT": points, "if exact": [(0, 0), (1, 1)]})


def _draw_cascade(bands: Sequence[CascadeBand]) -> list[tuple[str, Markup]]:
    """Return (title, chart over the share of requests) of precision and recall against each side, then of κ."""
    sides = {"teacher": [band.teacher for band in bands]}
    if gold := [band.gold for band in bands if band.gold is not None]:
        sides["gold"] = gold
    found = []
    for side, views in sides.items():
        curves = {
            title: _pair_with_requests(bands, views, f"{title}_DSAT") for title in ("precision", "recall")
        }
        found.append(
            (
                f"DSAT against {'the teacher' if side == 'teacher' else side}",
                _draw_chart(f"cascade-{side}", curves),
            )
        )
    curves = {
        f"κ against {side}": _pair_with_requests(bands, views, "kappa_dsat") for side, views in sides.items()
    }
    found.append(("κ, DSAT or not", _draw_chart("cascade-kappa", curves)))
    return found


def _pair_with_requests(
    bands: Sequence[CascadeBand], views: Sequence[Comparison], metric: str
) -> charts.Curve:
    """Return (share of requests in percent, value of a metric) of the bands that have the metric."""
    values = [view.figures[metric].value for view in views]
    return [
        (100 * band.share_requests, value)
        for band, value in zip(bands, values, strict=True)
        if value is not None
    ]


def _draw_chart(name: str, curves: dict[str, charts.Curve]) -> Markup:
    """Return a chart of curves over the share of requests."""
    ends = [
        f"{title} from {curve[0][1]:.2f} to {curve[-1][1]:.2f}" for title, curve in curves.items() if curve
    ]
    summary = f"Over the share of requests, in percent: {', '.join(ends)}"
    return charts.draw_lines(
        charts.Plot(name, summary, x_label="requests, % of all", y_range=_UNIT_RANGE),
        {k: v for k, v in curves.items() if v},
    )


def _format_value(value: float | None) -> str:
    """Return a metric as text."""
    return "none" if value is None else f"{value:.3f}"
