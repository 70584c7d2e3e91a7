"""Reads own logs: JSON rows with OpenAI-style `messages`, or ShareGPT's `conversations` of {from, value}.

The role `developer` becomes `system`, and neighbouring system messages are joined. Tool and function messages, and
assistant messages that only call tools, are left out; the assistant's texts around them become one reply, as the user
saw it. Text parts of a content are joined. A chat with an image, a file or sound is set aside. `convert` judges whether
the result is a well-formed chat.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drift_data.schema import TableName
from drift_data.sources.fields import find_first_value
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import check_keys, fit_chat_values, iter_objects
from drift_data.sources.rows import ChatRow, Piece, SetAside, gather_chats

MESSAGES_KEYS = ("messages", "conversation", "conversations")
_COLUMN_KEYS = {
    "conversation_id": ("conversation_id", "id", "conversation_hash", "session_id", "uuid"),
    "model": ("model",),
    "timestamp": ("timestamp", "created", "created_at", "time"),
    "language": ("language", "lang"),
    "country": ("country",),
    "toxic": ("toxic",),
    "redacted": ("redacted",),
}
_ROLES = {"developer": "system", "human": "user", "gpt": "assistant", "function": "tool"}
_TEXT_PARTS = ("text", "input_text", "output_text")


def list_tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the names of the tables that own logs give."""
    return (TableName.CONVERSATIONS,)


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the chats of all files."""
    for file in files:
        yield from gather_chats(file.name, _iter_chats(file, tally))


def _iter_chats(file: RawFile, tally: Tally) -> Iterator[ChatRow | SetAside]:
    """Yield every row of a file as a chat; the first row is checked for the layout."""
    checked = False
    for row in iter_objects(file, tally, TableName.CONVERSATIONS):
        if isinstance(row, SetAside):
            yield row
            continue
        position, value = row
        if not checked:
            check_keys(file, value, [MESSAGES_KEYS], "chat logs")
            checked = True
        messages, problem = simplify_messages(find_first_value(value, *MESSAGES_KEYS))
        values = {ours: find_first_value(value, *keys) for ours, keys in _COLUMN_KEYS.items()}
        yield ChatRow(position, fit_chat_values(values | {"messages": messages}), problem)


def simplify_messages(value: Any) -> tuple[list[dict[str, str | None]] | None, str | None]:
    """Return OpenAI-style messages as {role, content} of three roles and None, or None and why they are unusable."""
    if value is None:
        return None, "no_messages"
    if not isinstance(value, list):
        return None, "messages_not_a_list"
    chat: list[dict[str, str | None]] = []
    after_tool = False  # whether a tool was called since the last message of the chat
    for message in value:
        if not isinstance(message, Mapping):
            return None, "message_not_an_object"
        role = find_first_value(message, "role", "from")
        if not isinstance(role, str):
            return None, "unknown_role"
        role = _ROLES.get(role.strip().lower(), role.strip().lower())
        content, problem = _read_text(message)
        if problem is not None and role != "tool":
            return None, problem
        calls_tools = bool(message.get("tool_calls") or message.get("function_call"))
        if role == "tool" or (role == "assistant" and calls_tools and not (content or "").strip()):
            after_tool = True
            continue
        last = chat[-1] if chat else None
        if (
            last is not None
            and last["role"] == role
            and (role == "system" or (after_tool and role == "assistant"))
        ):
            last["content"] = "\n\n".join(filter(None, (last["content"], content)))
        else:
            chat.append({"role": role, "content": content})
        after_tool = calls_tools
    return chat, None


def _read_text(message: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the text of a message and None, or None and the reason why it has no usable text."""
    content = find_first_value(message, "content", "value", "refusal")
    if content is None or isinstance(content, str):
        return content, None
    if not isinstance(content, list):
        return None, "content_not_text"
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part if isinstance(part, str) else part.get("text") if kind in _TEXT_PARTS else None
        if kind == "refusal":
            text = part.get("refusal")
        if not isinstance(text, str):
            return None, "content_not_text"
        texts.append(text)
    return "\n".join(texts), None
