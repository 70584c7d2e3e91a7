import random
from pathlib import Path

import pytest

from drift_data.schema import DSAT_ROWS, PREFERENCES, SAT_ROWS, SEED_ROWS
from drift_data.workspace import UserError, Workspace
from drift_train.methods.examples import Example, read_examples
from drift_train.methods.selection import choose_slice
from drift_train.options import RolloutOptions
from tests.helpers.training_rows import (
    assistant,
    dsat_row,
    preference_row,
    sat_row,
    seed_row,
    user,
    write_table,
)

ALL = [Example(f"c{i}", 2, "train", [], None, "no", "bad") for i in range(10)]


def keys(examples: list[Example]) -> list[str]:
    return [example.conversation_id for example in examples]


def test_iterations_take_different_examples_and_begin_again_when_all_were_seen() -> None:
    options = RolloutOptions(examples=4)
    slices = [keys(choose_slice(ALL, k, options)) for k in (1, 2, 3, 4)]
    assert sorted({*slices[0], *slices[1], *slices[2]}) == sorted(keys(ALL))
    assert not {*slices[0]} & {*slices[1]}
    assert slices[2][2:] == slices[0][:2]
    assert slices[3] == [*slices[0][2:], *slices[1][:2]]


def test_without_fresh_every_iteration_takes_the_same_examples() -> None:
    options = RolloutOptions(examples=4, fresh=False)
    assert choose_slice(ALL, 1, options) == choose_slice(ALL, 3, options)


def test_the_slice_depends_on_the_seed_and_not_on_the_order_of_the_table() -> None:
    shuffled = random.Random(1).sample(ALL, len(ALL))
    options = RolloutOptions(examples=4)
    assert choose_slice(shuffled, 2, options) == choose_slice(ALL, 2, options)
    other = choose_slice(ALL, 2, RolloutOptions(examples=4, seed=7))
    assert other != choose_slice(ALL, 2, options)


def test_all_examples_are_taken_when_no_number_is_given() -> None:
    assert sorted(keys(choose_slice(ALL, 2, RolloutOptions()))) == sorted(keys(ALL))


def test_two_examples_with_one_key_are_refused_before_anything_is_sampled() -> None:
    with pytest.raises(UserError, match=r"Two examples are conversation 'c3', turn 2"):
        choose_slice([*ALL, ALL[3]], 1, RolloutOptions(examples=4))


def test_dsat_rows_hold_the_failing_reply_and_its_complaint(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "dsat", DSAT_ROWS, [dsat_row(3, "test")])
    assert list(read_examples(workspace, "dsat")) == [
        Example("c3", 2, "test", user("please list 3 fruits"), None, "blue fish 3", "no that is wrong")
    ]


def test_sat_rows_hold_the_good_reply_and_guide_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "sat", SAT_ROWS, [sat_row(3)])
    (example,) = read_examples(workspace, "sat")
    assert (example.chosen, example.rejected, example.can_guide) == ("apple 3", None, False)


def test_seed_rows_hold_both_replies_and_the_complaint(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "seed", SEED_ROWS, [seed_row(3)])
    (example,) = read_examples(workspace, "seed")
    assert (example.chosen, example.rejected) == ("apple pear 3", "blue fish 3")
    assert (example.feedback, example.can_guide, example.revised) == ("no that is wrong", True, True)


@pytest.mark.parametrize(("feedback", "guides"), [("too short", True), (" ", False), (None, False)])
def test_preferences_guide_where_they_carry_feedback(
    tmp_path: Path, feedback: str | None, guides: bool
) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "preferences", PREFERENCES, [preference_row(1, feedback)])
    (example,) = read_examples(workspace, "preferences")
    assert example == Example("u1", 2, "train", user("list 1"), "apple", "blue 1", feedback)
    assert example.can_guide == guides
    assert assistant(example.rejected or "") == preference_row(1)["rejected"]
