"""Checks the rules that every chat must meet, whatever its source, vectorised over a column of messages.

A conversation is an optional system message, then user and assistant in turn, user first. Every message has text. The
last message may be a user's. The rules change nothing; they say which rule a conversation breaks first.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from drift_data.chats.turns import find_message_starts
from drift_data.schema import ROLES

# A rule's position + 1 is its code in `find_broken_rules`. The first rule that a conversation breaks counts.
CHAT_RULES: Final = (
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
_MAX_BLANK_BYTES = 64  # longer messages are not checked for being only white space


def find_broken_rules(
    messages: pa.ListArray, max_message_chars: int, min_replies: int = 1
) -> npt.NDArray[np.uint8]:
    """Return for every conversation 0, or 1 + the position in CHAT_RULES of the first rule that it breaks.

    Args:
        messages: column of type MESSAGES that is not a slice; nulls at any level are allowed.
        max_message_chars: number of characters that one message may have.
        min_replies: number of assistant messages that a conversation needs.

    Returns:
        Codes, (conversations,).
    """
    starts = find_message_starts(messages)
    values = messages.flatten()
    codes = np.zeros(len(messages), dtype=np.uint8)
    lengths = np.diff(starts)
    roles, contents = values.field("role"), values.field("content")

    def mark(rule: str, conversations: npt.NDArray[np.bool_]) -> None:
        codes[(codes == 0) & conversations] = CHAT_RULES.index(rule) + 1

    def mark_any(rule: str, flags: npt.NDArray[np.bool_]) -> None:
        if flags.any():
            before = np.concatenate([[0], np.cumsum(flags)])
            mark(rule, before[starts[1:]] > before[starts[:-1]])

    invalid = find_invalid_utf8(contents)
    mark_any("invalid_utf8", find_invalid_utf8(roles) | invalid)
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
    mark_any("message_too_long", _find_longer(contents, size, max_message_chars))
    mark_any("empty_message", _find_blank(contents, size))

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


def find_invalid_utf8(strings: pa.StringArray) -> npt.NDArray[np.bool_]:
    """Return for every string whether its bytes are not UTF-8, (strings,)."""
    flags = np.zeros(len(strings), dtype=np.bool_)
    if _is_utf8(strings):
        return flags
    step = max(1, len(strings) // 64)  # look closer only where something is wrong
    for start in range(0, len(strings), step):
        part = strings.slice(start, step)
        if step == 1 or not _is_utf8(part):
            raw = part.cast(pa.binary()).to_pylist()
            flags[start : start + step] = [value is not None and not _can_decode(value) for value in raw]
    return flags


def _is_utf8(strings: pa.StringArray) -> bool:
    try:
        strings.cast(pa.binary()).cast(pa.string())  # checks each value; does not copy
    except pa.ArrowInvalid:
        return False
    return True


def _can_decode(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _find_longer(contents: pa.StringArray, size: npt.NDArray[np.int32], limit: int) -> npt.NDArray[np.bool_]:
    """Return which messages have more characters than the limit; `size` is their length in bytes.

    Characters are counted only where the bytes exceed the limit, which is faster.
    """
    longer = size > limit
    if longer.any():
        at = np.flatnonzero(longer)
        longer[at] = pc.utf8_length(contents.take(pa.array(at))).to_numpy(zero_copy_only=False) > limit
    return longer


def _find_blank(contents: pa.StringArray, size: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return which messages are empty or white space; `size` is their length in bytes.

    Messages of more than _MAX_BLANK_BYTES bytes are kept even if they are white space.
    """
    blank = np.zeros(len(size), dtype=np.bool_)
    at = np.flatnonzero(size <= _MAX_BLANK_BYTES)
    if len(at):
        short = pc.utf8_trim_whitespace(contents.take(pa.array(at)))
        blank[at] = pc.equal(short, "").fill_null(False).to_numpy(zero_copy_only=False)
    return blank
