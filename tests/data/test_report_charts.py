import re
from xml.etree import ElementTree

import pytest

from drift_data.html import charts
from drift_data.html.charts import Plot


def tree(svg):
    return ElementTree.fromstring(str(svg))


def draw(name="plot"):
    return charts.lines(
        Plot(name, "Two curves", reference=0.5, breaks=[(0.5, "M0"), (10.5, "M1")]),
        {
            side: [(float(x), y * x) for x in range(1, 21)]
            for side, y in (("chosen", 0.1), ("rejected", -0.1))
        },
    )


def test_a_chart_is_well_formed_small_and_refers_to_nothing_outside():
    svg = draw()
    assert tree(svg).attrib["role"] == "img"
    assert len(svg) < 20_000
    assert not re.search(r"url\(|https?:|<style|<script|<metadata|<image", svg)


def test_a_chart_takes_every_colour_from_the_page():
    for svg in (
        draw(),
        charts.bars(Plot("b", "Bars"), {"chosen": [1.0, 2.0, 2.0], "rejected": [3.0]}),
        charts.scores(Plot("s", "Scores"), [("base", 0.5, 0.01), ("M1", 0.6, 0.01)]),
    ):
        assert not re.search(r"#[0-9a-f]{3,8}\b(?!-)", re.sub(r'href="[^"]*"|id="[^"]*"', "", svg))
        assert "var(--first)" in svg


def test_two_charts_share_no_id_and_find_their_own_parts():
    first, second = draw("one"), draw("two")
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"', svg)) == set(own)


def test_the_same_numbers_draw_the_same_chart():
    assert draw() == draw()


def test_no_line_joins_two_iterations():
    curve = [(float(x), 0.0) for x in range(1, 21)]
    assert [[x for x, _ in part] for part in charts._parts(curve, [0.5, 10.5])] == [
        [float(x) for x in range(1, 11)],
        [float(x) for x in range(11, 21)],
    ]


def test_a_long_curve_is_averaged_to_few_points():
    thin = charts._thin([(float(x), float(x % 2)) for x in range(100_000)])
    assert len(thin) <= 300
    assert all(y == pytest.approx(0.5, abs=0.01) for _, y in thin)


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [0.0, 10_000.0]])
def test_a_histogram_of_any_range_is_drawn(values):
    assert "<path" in charts.bars(Plot("h", "Lengths"), {"chosen": values, "rejected": values})


def test_words_are_escaped():
    assert 'aria-label="&lt;b&gt; &#34;x&#34;"' in charts.lines(Plot("p", '<b> "x"'), {"a": [(1.0, 2.0)]})
