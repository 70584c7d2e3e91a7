from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from drift_data import schema
from drift_data.convert.rules import CHAT_RULES, find_broken_rules, find_invalid_utf8

ROLES = st.sampled_from(["user", "assistant", "system", "tool", None])
MESSAGE = st.none() | st.fixed_dictionaries(
    {"role": ROLES, "content": st.sampled_from(["x", "", " \n", "é" * 6, "long text", None])}
)
ALTERNATING = st.integers(1, 6).map(
    lambda n: [{"role": ("user", "assistant")[i % 2], "content": "x"} for i in range(n)]
)
CHATS = st.lists(st.none() | ALTERNATING | st.lists(MESSAGE, max_size=5), max_size=12)
LIMIT = 8


def one_by_one(chat: list[dict[str, Any] | None] | None, replies: int) -> str | None:
    """Return the first rule that a conversation breaks, said the slow and plain way."""
    if not chat:
        return "empty_conversation"
    if any(m is None or m["role"] not in schema.ROLES for m in chat):
        return "unknown_role"
    messages = [m for m in chat if m is not None]
    if any(m["content"] is None for m in messages):
        return "null_content"
    if any(len(m["content"]) > LIMIT for m in messages):
        return "message_too_long"
    if any(not m["content"].strip() for m in messages):
        return "empty_message"
    roles = [m["role"] for m in messages]
    if "system" in roles[1:]:
        return "system_message_in_the_middle"
    talk = roles[1:] if roles[0] == "system" else roles
    if talk[:1] == ["assistant"]:
        return "does_not_start_with_user"
    for role in ("user", "assistant"):
        if any(a == b == role for a, b in pairwise(talk)):
            return f"two_{role}_messages_in_a_row"
    if "assistant" not in talk:
        return "no_reply"
    return "too_few_replies" if talk.count("assistant") < replies else None


@given(CHATS, st.integers(1, 3), st.integers(0, 3))
def test_vectorised_rules_agree_with_one_conversation_at_a_time(
    chats: list[list[dict[str, Any] | None] | None], replies: int, start: int
) -> None:
    column = pa.array(chats, schema.MESSAGES)[start:]
    codes = find_broken_rules(column, LIMIT, replies)
    found = [CHAT_RULES[code - 1] if code else None for code in codes.tolist()]
    assert found == [one_by_one(chat, replies) for chat in chats[start:]]


def strings(*values: bytes | None) -> pa.StringArray:
    raw = pa.array(values, pa.binary())
    return pa.StringArray.from_buffers(len(raw), *raw.buffers()[1:], raw.buffers()[0])


@given(st.lists(st.none() | st.binary(max_size=6), max_size=200))
def test_invalid_utf8_is_found_value_by_value(values: list[bytes | None]) -> None:
    def valid(value: bytes | None) -> bool:
        try:
            return value is None or isinstance(value.decode(), str)
        except UnicodeDecodeError:
            return False

    assert find_invalid_utf8(strings(*values)).tolist() == [not valid(value) for value in values]


def test_a_character_cut_by_a_value_border_is_invalid_on_both_sides() -> None:
    accented = "é".encode()
    assert find_invalid_utf8(strings(accented, accented[:1], accented[1:])).tolist() == [False, True, True]
