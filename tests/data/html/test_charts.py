import re
from base64 import b64decode
from xml.etree import ElementTree

import pytest

from drift_data.html import charts
from drift_data.html.charts import Plot
from tests.helpers.html_page import Page


def image(chart):
    """Return the attributes of a chart's <img> and the SVG in it."""
    [(tag, attributes)] = Page(f"<main>{chart}</main>").elements[1:]
    assert tag == "img"
    kind, data = attributes["src"].split(",")
    assert kind == "data:image/svg+xml;base64"
    return attributes, b64decode(data).decode()


def draw(name="plot"):
    return charts.draw_lines(
        Plot(name, "Two curves", reference=0.5, breaks=[(0.5, "M0"), (10.5, "M1")]),
        {
            side: [(float(x), y * x) for x in range(1, 21)]
            for side, y in (("chosen", 0.1), ("rejected", -0.1))
        },
    )


def test_a_chart_is_well_formed_small_and_refers_to_nothing_outside():
    attributes, svg = image(draw())
    assert attributes["alt"] == "Two curves"
    ElementTree.fromstring(svg)
    assert len(svg) < 20_000
    assert not re.search(r"url\((?!#)|<script|<image|@import", svg)
    assert set(re.findall(r"https?://[^\"]+", svg)) == {
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/2000/svg",
    }


def test_a_chart_takes_every_colour_from_the_style_sheet_of_the_pages():
    for chart in (
        draw(),
        charts.draw_histogram(Plot("b", "Bars"), {"chosen": [1.0, 2.0, 2.0], "rejected": [3.0]}),
        charts.draw_scores(Plot("s", "Scores"), [("base", 0.5, 0.01), ("M1", 0.6, 0.01)]),
    ):
        _, svg = image(chart)
        drawn = re.sub(
            r"<style.*?</style>|href=\"[^\"]*\"|id=\"[^\"]*\"|url\([^)]*\)", "", svg, flags=re.DOTALL
        )
        assert not re.search(r"#[0-9a-f]{3,8}\b", drawn)
        used = set(re.findall(r"var\((--\w+)\)", drawn))
        assert "--first" in used
        for variable in used:  # once for light pages, once for dark ones
            assert svg.count(f"{variable}: #") == 2


def test_the_same_numbers_draw_the_same_chart():
    assert draw() == draw()


def test_no_line_joins_two_iterations():
    curve = [(float(x), 0.0) for x in range(1, 21)]
    assert [[x for x, _ in part] for part in charts._cut_at_breaks(curve, [0.5, 10.5])] == [
        [float(x) for x in range(1, 11)],
        [float(x) for x in range(11, 21)],
    ]


def test_a_long_curve_is_averaged_to_few_points():
    thin = charts._average_neighbours([(float(x), float(x % 2)) for x in range(100_000)])
    assert len(thin) <= 300
    assert all(y == pytest.approx(0.5, abs=0.01) for _, y in thin)


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0, 10_000.0]])
def test_a_histogram_of_any_range_is_drawn(values):
    _, svg = image(charts.draw_histogram(Plot("h", "Lengths"), {"chosen": values, "rejected": values}))
    assert "<path" in svg


def test_words_are_escaped():
    assert 'alt="&lt;b&gt; &#34;x&#34;"' in charts.draw_lines(Plot("p", '<b> "x"'), {"a": [(1.0, 2.0)]})
