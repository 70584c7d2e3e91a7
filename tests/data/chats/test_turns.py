import numpy as np
import pyarrow as pa
import pytest

from drift_data import schema
from drift_data.chats.turns import count_feedback_turns, find_feedback_turns, mask_feedback_turns

CHATS = {
    "uaua": [2],
    "ua": [],
    "uau": [2],
    "suauau": [3, 5],
    "u": [],
    "": [],
    "au": [1],
    "uauu": [2],
    "aua": [1],
}
NAMES = {"u": "user", "a": "assistant", "s": "system"}


def chat(roles: str) -> list[dict[str, str]]:
    return [{"role": NAMES[r], "content": "x"} for r in roles]


@pytest.mark.parametrize("roles", CHATS)
def test_feedback_turn_is_a_user_message_right_after_an_assistant_message(roles: str) -> None:
    assert find_feedback_turns(chat(roles)) == CHATS[roles]


def test_column_count_agrees_with_the_single_conversation_count() -> None:
    column = pa.array([chat(roles) for roles in CHATS], schema.MESSAGES)
    assert count_feedback_turns(column).tolist() == [len(turns) for turns in CHATS.values()]


def test_last_assistant_of_one_chat_and_first_user_of_the_next_make_no_feedback_turn() -> None:
    column = pa.array([chat("ua"), chat("ua")], schema.MESSAGES)
    assert count_feedback_turns(column).tolist() == [0, 0]


def test_slices_and_null_lists_are_counted_right() -> None:
    column = pa.array([chat("uaua"), None, chat("uau"), chat("suauau"), chat("")], schema.MESSAGES)
    assert count_feedback_turns(column).tolist() == [1, 0, 1, 2, 0]
    assert count_feedback_turns(column.slice(1, 3)).tolist() == [0, 1, 2]
    assert np.flatnonzero(mask_feedback_turns(column.slice(2, 2))).tolist() == [2, 3 + 3, 3 + 5]


def test_column_without_rows_or_messages_is_allowed() -> None:
    assert count_feedback_turns(pa.array([], schema.MESSAGES)).tolist() == []
    assert count_feedback_turns(pa.array([[], []], schema.MESSAGES)).tolist() == [0, 0]
