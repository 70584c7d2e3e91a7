"""Finds the feedback turns of conversations, by the one definition that all stages share.

A feedback turn is a user message right after an assistant's message: the place where a user may show what the reply was
worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Message = Mapping[str, str]  # role, content
Messages = Sequence[Message]


def find_feedback_turns(messages: Messages) -> list[int]:
    """Return the indices of the feedback turns in one conversation's messages."""
    roles = [message["role"] for message in messages]
    return [i for i in range(1, len(roles)) if roles[i] == "user" and roles[i - 1] == "assistant"]


def mask_feedback_turns(messages: pa.ListArray) -> npt.NDArray[np.bool_]:
    """Return, for every message of a column in reading order, whether it is a feedback turn.

    Args:
        messages: list<struct<role, content>>; may be a slice. Null lists hold no message.

    Returns:
        One flag for each of `messages.flatten()`.
    """
    roles = messages.flatten().field("role")
    user = pc.equal(roles, "user").fill_null(False).to_numpy(zero_copy_only=False)
    assistant = pc.equal(roles, "assistant").fill_null(False).to_numpy(zero_copy_only=False)
    mask = np.zeros(len(roles), dtype=np.bool_)
    mask[1:] = user[1:] & assistant[:-1]
    starts = find_message_starts(messages)[:-1]
    # The message before a conversation's first one belongs to another conversation.
    mask[starts[starts < len(mask)]] = False
    return mask


def find_message_starts(messages: pa.ListArray) -> npt.NDArray[np.int64]:
    """Return at which index of `messages.flatten()` each of n conversations begins, and the total: n + 1 numbers."""
    lengths = pc.list_value_length(messages).fill_null(0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def count_feedback_turns(messages: pa.ListArray) -> npt.NDArray[np.int64]:
    """Return the number of feedback turns of each conversation of a column of messages."""
    before = np.concatenate([[0], np.cumsum(mask_feedback_turns(messages), dtype=np.int64)])
    starts = find_message_starts(messages)
    counts: npt.NDArray[np.int64] = before[starts[1:]] - before[starts[:-1]]
    return counts
