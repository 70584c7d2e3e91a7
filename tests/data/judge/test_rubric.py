import pytest

from drift_data.judge.label_rule import CHANGE_ITEMS, decide_label
from drift_data.judge.options import Thresholds
from drift_data.judge.rubric import load_rubric
from drift_data.workspace import UserError

THRESHOLDS = Thresholds(sat=5, dsat=5)


@pytest.mark.parametrize(
    ("sat", "dsat", "items", "label"),
    [
        (0, 0, [], "NEUTRAL"),
        (5, 0, ["Praise"], "SAT"),
        (4.9, 4.9, ["Praise", "Style"], "NEUTRAL"),
        (0, 5, ["No_Engagement"], "DSAT"),
        (4, 9, ["Getting_There", "Style"], "DSAT"),
        (20, 5, ["Praise", "Revision"], "DSAT"),  # praise does not take back a request to change
        (20, 5, ["Praise", "Negative_Feedback"], "NEUTRAL"),
    ],
)
def test_the_label_follows_the_thresholds_and_praise_with_a_change_asked_for_is_dsat(sat, dsat, items, label):
    assert decide_label(sat, dsat, items, THRESHOLDS) == label


def test_a_learned_rubric_brings_its_own_items_that_ask_for_change():
    assert decide_label(9, 9, ["wants_redo"], THRESHOLDS) == "NEUTRAL"
    assert decide_label(9, 9, ["wants_redo"], THRESHOLDS, {"wants_redo"}) == "DSAT"


def test_the_default_rubric_has_nine_items_of_each_polarity_and_agrees_with_the_decision_rule():
    rubric = load_rubric()
    polarities = list(rubric.polarities.values())
    assert (polarities.count("SAT"), polarities.count("DSAT")) == (9, 9)
    assert rubric.change_items == CHANGE_ITEMS


def test_the_hash_covers_definitions_but_not_order_or_name(tmp_path):
    rubric = load_rubric()
    turned = rubric.model_copy(update={"items": rubric.items[::-1], "name": "other"})
    assert turned.hash == rubric.hash
    first = rubric.items[0].model_copy(update={"definition": "something else"})
    assert rubric.model_copy(update={"items": (first, *rubric.items[1:])}).hash != rubric.hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nitems: []", "items"),
        ("name: x\nitems: [{name: a, polarity: BAD, definition: d}]", "polarity"),
        (
            "name: x\nitems: "
            "[{name: a, polarity: SAT, definition: d}, {name: a, polarity: SAT, definition: e}]",
            "unique",
        ),
        ("{", "rubric.yaml"),
    ],
)
def test_a_file_that_is_no_rubric_is_a_clear_error(tmp_path, text, message):
    path = tmp_path / "rubric.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_rubric(path)
