"""The queue: which turn comes next, in every order and under every filter."""

import numpy as np
import pytest

from drift_data import schema
from drift_data.review.queue import OPEN_CODE, ReviewQueue
from drift_data.review.selection import Selection, parse_filter
from drift_data.workspace import UserError, Workspace
from pipelines.stages.query import query
from tests.helpers.quality_sample import turn, write_labels
from tests.helpers.review_sample import HASHED, LABELS, build_conversations, to_review


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return to_review(tmp_path_factory.mktemp("queue"))


@pytest.fixture(scope="module")
def queue(workspace):
    return ReviewQueue(workspace, "labels/test", "labels/other")


def nothing(queue):
    return np.full(len(queue), OPEN_CODE, np.int8)


def given(queue, **labels):
    """Return codes: given(queue, a2="SAT")."""
    codes = nothing(queue)
    for name, label in labels.items():
        codes[queue.find_number(name[0], int(name[1:]))] = schema.LABELS.index(label)
    return codes


def walk(queue, text, codes=None):
    """Step forward until the end, by keys, deciding nothing."""
    chosen, codes = parse_filter(text), nothing(queue) if codes is None else codes
    found, at = [], queue.find_next(chosen, codes)
    while at is not None and queue.key(at) not in found:
        found.append(queue.key(at))
        at = queue.find_next(chosen, codes, at)
    return found


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("", HASHED),
        ("order=log", list(LABELS)),
        ("order=log label=DSAT", [("a", 2), ("b", 2), ("d", 4)]),
        ("order=log item=Style", [("a", 2), ("b", 2)]),
        ("order=log language=English", [("a", 2), ("a", 4), ("d", 2), ("d", 4)]),
        ("order=log language=English label=DSAT", [("a", 2), ("d", 4)]),
        ("order=log language=(not known)", [("c", 2)]),
        ("order=log language=Klingon", []),
    ],
)
def test_orders_and_filters(queue, text, keys):
    assert walk(queue, text) == keys


def test_uncertain_first_goes_by_the_distance_from_the_threshold(queue):
    assert walk(queue, "order=uncertain")[:4] == [("b", 2), ("a", 4), ("d", 4), ("a", 2)]
    assert set(walk(queue, "order=uncertain")[4:]) == {("c", 2), ("d", 2)}


def test_disagreements_come_first_and_a_turn_that_only_one_judge_has_is_none(queue):
    found = walk(queue, "order=disagreements")
    assert set(found[:2]) == {("a", 4), ("d", 2)}
    assert found[2:] == [key for key in HASHED if key not in found[:2]]


def test_random_order_is_that_of_the_query_to_label(workspace, tmp_path):
    """Whoever labels a file by hand and whoever reviews see the same turns first."""
    query(name="to_label", out=tmp_path / "turns.csv", work=workspace.root)
    lines = (tmp_path / "turns.csv").read_text().splitlines()[1:]
    by_hand = [(name, int(at)) for name, at, *_ in (line.split(",") for line in lines)]
    assert [key for key in by_hand if key in LABELS] == HASHED


def test_reviewed_turns_are_not_shown_again_unless_asked_for(queue):
    codes = given(queue, a2="DSAT", c2="NEUTRAL")
    assert walk(queue, "order=log", codes) == [("a", 4), ("b", 2), ("d", 2), ("d", 4)]
    assert walk(queue, "order=log state=done", codes) == [("a", 2), ("c", 2)]
    assert walk(queue, "order=log state=differ", codes) == [("c", 2)]
    assert walk(queue, "order=log state=all", codes) == list(LABELS)
    assert queue.count_reviewed(parse_filter("language=English"), codes) == (1, 4)


def test_after_the_last_turn_those_that_were_passed_over_come_again(queue):
    chosen, codes = parse_filter("order=log"), given(queue, a2="DSAT", d4="DSAT")
    last = queue.find_number("d", 4)
    assert queue.key(queue.find_next(chosen, codes, last)) == ("a", 4)
    everything = given(queue, **{f"{name}{at}": "SAT" for name, at in LABELS})
    assert queue.find_next(chosen, everything, last) is None


def test_back_shows_reviewed_turns_too_and_ends_at_the_first(queue):
    chosen, codes = parse_filter("order=log"), given(queue, a4="SAT")
    assert queue.key(queue.find_next(chosen, codes, queue.find_number("b", 2), forward=False)) == ("a", 4)
    assert queue.find_next(chosen, codes, queue.find_number("a", 2), forward=False) is None


def test_a_turn_is_found_by_its_key_and_only_when_it_is_labelled(queue):
    assert [queue.key(queue.find_number(*key)) for key in LABELS] == list(LABELS)
    assert queue.find_number("b", 4) is None and queue.find_number("nobody", 2) is None


def test_what_can_be_filtered_by_is_counted(queue):
    assert queue.languages == [("English", 4), ("(not known)", 1), ("French", 1)]
    assert dict(queue.items) == {"Style": 2, "Revision": 1, "Gratitude": 1, "Ignored": 1}


def test_an_order_that_cannot_be_is_a_mistake_of_the_user(tmp_path):
    workspace = Workspace(tmp_path)
    build_conversations(workspace)
    write_labels(workspace, [turn("a", 2, label="SAT")], thresholds=None)
    queue = ReviewQueue(workspace, "labels/test")
    with pytest.raises(UserError, match="order=uncertain needs labels with scores"):
        walk(queue, "order=uncertain")
    with pytest.raises(UserError, match="Name their table with AGAINST="):
        walk(queue, "order=disagreements")


def test_labels_of_a_conversation_that_is_not_there_are_refused(tmp_path):
    workspace = Workspace(tmp_path)
    build_conversations(workspace)
    write_labels(workspace, [turn("a", 2), turn("z", 2)])
    with pytest.raises(UserError, match="not in conversations: 'z'"):
        ReviewQueue(workspace, "labels/test")


def test_a_filter_is_read_with_spaces_in_its_values_and_written_as_an_address():
    chosen = parse_filter(" order=uncertain item=Wrong or stale facts  label=DSAT ")
    assert chosen == Selection(order="uncertain", item="Wrong or stale facts", label="DSAT")
    assert chosen.to_query() == {"order": "uncertain", "item": "Wrong or stale facts", "label": "DSAT"}
    assert parse_filter("").to_query() == {"order": "random"}


@pytest.mark.parametrize("text", ["uncertain", "order=hardest", "label=dsat", "colour=red"])
def test_a_wrong_filter_names_what_it_takes(text):
    with pytest.raises(UserError, match=r"FILTER="):
        parse_filter(text)


@pytest.mark.parametrize(
    ("text", "random", "tells"),
    [
        ("", True, False),
        ("state=all", True, False),
        ("language=English", False, False),
        ("order=log", False, False),
        ("label=DSAT", False, True),
        ("item=Style", False, True),
        ("order=uncertain", False, True),
        ("order=disagreements", False, True),
        ("state=differ", False, True),
    ],
)
def test_which_selections_are_a_random_sample_and_which_give_the_judge_away(text, random, tells):
    assert (parse_filter(text).is_random, parse_filter(text).reveals_judge) == (random, tells)
