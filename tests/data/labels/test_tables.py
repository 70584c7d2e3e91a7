"""The strongest item of a label row, of both sides or of one."""

from __future__ import annotations

import polars as pl
import pytest

from drift_data.labels.tables import select_strongest_item


def item(name: str, polarity: str, strength: int) -> dict[str, str | int]:
    return {"name": name, "polarity": polarity, "strength": strength}


@pytest.mark.parametrize(
    ("polarity", "names"),
    [(None, ["Praise", "Redo", "Thanks", None]), ("DSAT", ["Style", "Redo", None, None])],
)
def test_the_strongest_item_of_a_side_is_selected(polarity, names):
    rows = [
        [item("Style", "DSAT", 3), item("Praise", "SAT", 9)],
        [item("Style", "DSAT", 3), item("Redo", "DSAT", 8)],
        [item("Thanks", "SAT", 5)],
        [],
    ]
    frame = pl.DataFrame({"items": rows})
    strongest = select_strongest_item(polarity).struct.field("name")
    assert frame.select(strongest).to_series().to_list() == names
