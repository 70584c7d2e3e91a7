"""Own logs: JSON rows with OpenAI-style `messages`, or ShareGPT's `conversations` of {from, value}.

What a chat becomes: `developer` is `system`, and neighbouring system messages are joined. Tool and function
messages, and assistant messages that only call tools, are left out of the chat; the texts of an assistant
around them are one reply, as the user saw it. Content parts of text are joined; a chat with an image, a file
or sound is set aside. Whether the rest is a well-formed chat is not judged here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from drift_data.schema import TableName
from drift_data.sources.fields import first_of
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import chat_values, check_keys, object_rows
from drift_data.sources.rows import ChatRow, Piece, SetAside, chats_from_rows

MESSAGES_KEYS = ("messages", "conversation", "conversations")
_KEYS = {
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


def tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the tables that come out."""
    return (TableName.CONVERSATIONS,)


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the chats of all files."""
    for file in files:
        yield from chats_from_rows(file.name, _rows(file, tally))


def _rows(file: RawFile, tally: Tally) -> Iterator[ChatRow | SetAside]:
    checked = False
    for row in object_rows(file, tally, TableName.CONVERSATIONS):
        if isinstance(row, SetAside):
            yield row
            continue
        position, value = row
        if not checked:
            check_keys(file, value, [MESSAGES_KEYS], "chat logs")
            checked = True
        messages, problem = plain_messages(first_of(value, *MESSAGES_KEYS))
        values = {ours: first_of(value, *keys) for ours, keys in _KEYS.items()}
        yield ChatRow(position, chat_values(values | {"messages": messages}), problem)


def plain_messages(value: Any) -> tuple[list[dict[str, str | None]] | None, str | None]:
    """Return OpenAI-style messages as {role, content} of three roles, and why they are unusable, or None."""
    if value is None:
        return None, "no_messages"
    if not isinstance(value, list):
        return None, "messages_not_a_list"
    chat: list[dict[str, str | None]] = []
    after_tool = False  # a tool worked since the last message that stays
    for message in value:
        if not isinstance(message, Mapping):
            return None, "message_not_an_object"
        role = first_of(message, "role", "from")
        if not isinstance(role, str):
            return None, "unknown_role"
        role = _ROLES.get(role.strip().lower(), role.strip().lower())
        content, problem = _text(message)
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


def _text(message: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the text of a message, and why it has none that can be used, or None."""
    content = first_of(message, "content", "value", "refusal")
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
