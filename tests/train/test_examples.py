import random
from pathlib import Path

import pytest
from conftest import assistant, dsat_row, user, write_table

from drift_data.schema import DSAT_ROWS, PREFERENCES
from drift_data.workspace import UserError, Workspace
from drift_train.examples import Example, dsat_examples, preference_examples, slice_of_iteration
from drift_train.options import RolloutOptions

ALL = [Example(f"c{i}", 2, "train", [], "no", "bad") for i in range(10)]


def keys(examples: list[Example]) -> list[str]:
    return [example.conversation_id for example in examples]


def test_iterations_take_different_examples_and_begin_again_when_all_were_seen() -> None:
    options = RolloutOptions(examples=4)
    slices = [keys(slice_of_iteration(ALL, k, options)) for k in (1, 2, 3, 4)]
    assert sorted({*slices[0], *slices[1], *slices[2]}) == sorted(keys(ALL))
    assert not {*slices[0]} & {*slices[1]}
    assert slices[2][2:] == slices[0][:2]
    assert slices[3] == [*slices[0][2:], *slices[1][:2]]


def test_without_fresh_every_iteration_takes_the_same_examples() -> None:
    options = RolloutOptions(examples=4, fresh=False)
    assert slice_of_iteration(ALL, 1, options) == slice_of_iteration(ALL, 3, options)


def test_the_slice_depends_on_the_seed_and_not_on_the_order_of_the_table() -> None:
    shuffled = random.Random(1).sample(ALL, len(ALL))
    options = RolloutOptions(examples=4)
    assert slice_of_iteration(shuffled, 2, options) == slice_of_iteration(ALL, 2, options)
    other = slice_of_iteration(ALL, 2, RolloutOptions(examples=4, seed=7))
    assert other != slice_of_iteration(ALL, 2, options)


def test_all_examples_are_taken_when_no_number_is_given() -> None:
    assert sorted(keys(slice_of_iteration(ALL, 2, RolloutOptions()))) == sorted(keys(ALL))


def test_two_examples_with_one_key_are_refused_before_anything_is_sampled() -> None:
    with pytest.raises(UserError, match=r"Two examples are conversation 'c3', turn 2"):
        slice_of_iteration([*ALL, ALL[3]], 1, RolloutOptions(examples=4))


def test_dsat_rows_become_examples(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_table(workspace, "dsat", DSAT_ROWS, [dsat_row(3, "test")])
    assert list(dsat_examples(workspace)) == [
        Example("c3", 2, "test", user("please list 3 fruits"), "blue fish 3", "no that is wrong")
    ]


def test_preferences_become_examples_without_a_complaint(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    row = {
        "conversation_id": "u1",
        "split": "train",
        "prompt": user("list"),
        "chosen": assistant("apple"),
        "rejected": assistant("blue"),
        "score_chosen": 5.0,
        "score_rejected": 1.0,
    }
    write_table(workspace, "preferences", PREFERENCES, [row])
    assert list(preference_examples(workspace)) == [Example("u1", 2, "train", user("list"), "blue", None)]
