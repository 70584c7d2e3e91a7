"""The rules that every chat must meet, whatever its source: vectorised over a column of messages.

A conversation is an optional system message, then user and assistant in turn, user first; every message has
text. The last message may be a user's. Says which rule is broken first; changes nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from drift_data.chats.turns import find_message_starts
from drift_data.schema import ROLES

# Position + 1 is the code that `broken_rules` gives. The first that applies counts.
RULES: Final = (
    "invalid_utf8",
    "empty_conversation",
    "unknown_role",
    "null_content",
    "message_too_long",
    "empty_message",
    "system_message_in_the_middle",
    "does_not_start_with_user",
    "two_user_messages_in_a_row",
    "two_assistant_messages_in_a_row",
    "no_reply",
    "too_few_replies",
)
_SYSTEM, _USER, _ASSISTANT = (ROLES.index(role) for role in ("system", "user", "assistant"))
_SHORT = 64  # bytes; only messages up to this are looked at for being white space


def broken_rules(
    messages: pa.ListArray, max_message_chars: int, min_replies: int = 1
) -> npt.NDArray[np.uint8]:
    """Return for every conversation 0, or 1 + the position in RULES of the first rule that it breaks.

    Args:
        messages: MESSAGES, not sliced inside (a fresh column); nulls at any level are allowed.
        max_message_chars: characters that one message may have.
        min_replies: assistant messages that a conversation needs.
    """
    starts = find_message_starts(messages)
    values = messages.flatten()
    codes = np.zeros(len(messages), dtype=np.uint8)
    lengths = np.diff(starts)
    roles, contents = values.field("role"), values.field("content")

    def mark(rule: str, conversations: npt.NDArray[np.bool_]) -> None:
        codes[(codes == 0) & conversations] = RULES.index(rule) + 1

    def mark_any(rule: str, flags: npt.NDArray[np.bool_]) -> None:
        if flags.any():
            before = np.concatenate([[0], np.cumsum(flags)])
            mark(rule, before[starts[1:]] > before[starts[:-1]])

    invalid = invalid_utf8(contents)
    mark_any("invalid_utf8", invalid_utf8(roles) | invalid)
    if invalid.any():
        contents = pc.if_else(pa.array(invalid), None, contents)
    mark("empty_conversation", lengths == 0)
    role = pc.index_in(roles, pa.array(ROLES)).fill_null(-1).to_numpy(zero_copy_only=False)
    if values.null_count:
        role = np.where(values.is_null().to_numpy(zero_copy_only=False), -1, role)
    mark_any("unknown_role", role < 0)
    if contents.null_count:
        mark_any("null_content", contents.is_null().to_numpy(zero_copy_only=False))
    size = pc.binary_length(contents).fill_null(0).to_numpy(zero_copy_only=False)
    mark_any("message_too_long", _longer(contents, size, max_message_chars))
    mark_any("empty_message", _blank(contents, size))

    first = np.zeros(len(role), dtype=np.bool_)
    first[starts[:-1][lengths > 0]] = True
    mark_any("system_message_in_the_middle", (role == _SYSTEM) & ~first)
    after_system = np.zeros(len(role), dtype=np.bool_)
    after_system[1:] = (role[:-1] == _SYSTEM) & ~first[1:]
    mark_any("does_not_start_with_user", (role == _ASSISTANT) & (first | after_system))
    same = np.zeros(len(role), dtype=np.bool_)
    same[1:] = (role[1:] == role[:-1]) & ~first[1:]
    mark_any("two_user_messages_in_a_row", same & (role == _USER))
    mark_any("two_assistant_messages_in_a_row", same & (role == _ASSISTANT))
    before = np.concatenate([[0], np.cumsum(role == _ASSISTANT)])
    replies = before[starts[1:]] - before[starts[:-1]]
    mark("no_reply", replies == 0)
    mark("too_few_replies", replies < min_replies)
    return codes


def invalid_utf8(strings: pa.StringArray) -> npt.NDArray[np.bool_]:
    """Return for every string whether its bytes are no UTF-8."""
    flags = np.zeros(len(strings), dtype=np.bool_)
    if _is_utf8(strings):
        return flags
    step = max(1, len(strings) // 64)  # look closer only where something is wrong
    for start in range(0, len(strings), step):
        part = strings.slice(start, step)
        if step == 1 or not _is_utf8(part):
            raw = part.cast(pa.binary()).to_pylist()
            flags[start : start + step] = [value is not None and not _decodes(value) for value in raw]
    return flags


def _is_utf8(strings: pa.StringArray) -> bool:
    try:
        strings.cast(pa.binary()).cast(pa.string())  # checks each value; does not copy
    except pa.ArrowInvalid:
        return False
    return True


def _decodes(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _longer(contents: pa.StringArray, size: npt.NDArray[np.int32], limit: int) -> npt.NDArray[np.bool_]:
    """Return which messages have more characters than the limit; counted only where the bytes exceed it."""
    longer = size > limit
    if longer.any():
        at = np.flatnonzero(longer)
        longer[at] = pc.utf8_length(contents.take(pa.array(at))).to_numpy(zero_copy_only=False) > limit
    return longer


def _blank(contents: pa.StringArray, size: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return which messages are empty or white space (long runs of nothing but white space are left in)."""
    blank = np.zeros(len(size), dtype=np.bool_)
    at = np.flatnonzero(size <= _SHORT)
    if len(at):
        short = pc.utf8_trim_whitespace(contents.take(pa.array(at)))
        blank[at] = pc.equal(short, "").fill_null(False).to_numpy(zero_copy_only=False)
    return blank
