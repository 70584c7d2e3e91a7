"""The report of a distillation as one HTML page. Knows how things look, not how they are counted."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from drift_data.calibrate.page import GOLD_METRIC_TITLES, format_estimate
from drift_data.calibrate.summary import Comparison
from drift_data.distill.cascade import GOOD, CascadeRow
from drift_data.distill.comparisons import DISTILLED
from drift_data.distill.student import APART, LEAST
from drift_data.distill.summary import Distilled
from drift_data.html import charts
from drift_data.html.environment import make_environment

_SHARE = (0.0, 1.03)  # a curve at 1 is seen whole
LEAST_OF_BIN = 10  # turns of a tenth of the scale that is drawn
_FIGURES = {
    name: title for name, title in GOLD_METRIC_TITLES.items() if name not in ("accuracy", "macro_f1_present")
}


def render(result: Distilled) -> str:
    """Return the page."""
    pages = make_environment(600, "drift_data.distill")
    pages.filters["interval"] = format_estimate
    return pages.get_template("distill.html.jinja").render(
        result=result,
        titles=_FIGURES,
        precision_recall=_precision_recall(result),
        calibration=_calibration(result),
        cascade=_cascade(result.cascade),
        least_of_bin=LEAST_OF_BIN,
        good=GOOD,
        least=LEAST,
        apart=APART,
    )


def _precision_recall(result: Distilled) -> Markup | None:
    if len(result.curves[DISTILLED]) < 2:
        return None
    here = (result.held_out or result.views)[0].figures
    summary = (
        f"Precision of DSAT over its recall; {DISTILLED} at {result.choice.present.dsat:g}: "
        f"{_said(here['precision_DSAT'].value)} and {_said(here['recall_DSAT'].value)}"
    )
    plot = charts.Plot("curve", summary, x_label="recall", y_range=_SHARE)
    return charts.draw_lines(plot, {who: sorted(curve) for who, curve in result.curves.items() if curve})


def _calibration(result: Distilled) -> Markup | None:
    points = [
        (found.predicted, found.observed) for found in result.calibration if found.turns >= LEAST_OF_BIN
    ]
    if len(points) < 2:
        return None
    summary = "Share of turns that are DSAT over the predicted probability: " + ", ".join(
        f"{observed:.2f} at {predicted:.2f}" for predicted, observed in points
    )
    plot = charts.Plot("calibration", summary, x_label="predicted probability")
    return charts.draw_lines(plot, {"share that is DSAT": points, "if exact": [(0, 0), (1, 1)]})


def _cascade(bands: Sequence[CascadeRow]) -> list[tuple[str, Markup]]:
    """Return charts over the share of requests: precision and recall, then κ."""
    sides = {"teacher": [band.teacher for band in bands]}
    if gold := [band.gold for band in bands if band.gold is not None]:
        sides["gold"] = gold
    found = []
    for side, views in sides.items():
        curves = {title: _over_requests(bands, views, f"{title}_DSAT") for title in ("precision", "recall")}
        found.append(
            (
                f"DSAT against {'the teacher' if side == 'teacher' else side}",
                _chart(f"cascade-{side}", curves),
            )
        )
    curves = {
        f"κ against {side}": _over_requests(bands, views, "kappa_dsat") for side, views in sides.items()
    }
    found.append(("κ, DSAT or not", _chart("cascade-kappa", curves)))
    return found


def _over_requests(bands: Sequence[CascadeRow], views: Sequence[Comparison], figure: str) -> charts.Curve:
    values = [view.figures[figure].value for view in views]
    return [
        (100 * band.share_requests, value)
        for band, value in zip(bands, values, strict=True)
        if value is not None
    ]


def _chart(name: str, curves: dict[str, charts.Curve]) -> Markup:
    ends = [
        f"{title} from {curve[0][1]:.2f} to {curve[-1][1]:.2f}" for title, curve in curves.items() if curve
    ]
    summary = f"Over the share of requests, in percent: {', '.join(ends)}"
    return charts.draw_lines(
        charts.Plot(name, summary, x_label="requests, % of all", y_range=_SHARE),
        {k: v for k, v in curves.items() if v},
    )


def _said(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
