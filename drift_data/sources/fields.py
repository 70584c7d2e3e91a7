"""Single values of raw JSON rows: times, texts, flags, messages. The wrong kind becomes null or a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_MILLISECONDS = 1e11  # a number of seconds beyond this would lie after the year 5138


def text(value: Any) -> str | None:
    """Return a string as it is, a number as a string, anything else as None."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def storable(text: str) -> str:
    """Return text with "?" for what UTF-8 cannot hold: a lone surrogate, which JSON can write."""
    return text.encode("utf-8", "replace").decode()


def flag(value: Any) -> bool | None:
    """Return a boolean, or None."""
    return value if isinstance(value, bool) else None


def timestamp(value: Any) -> datetime | None:
    """Return a time in UTC from ISO 8601 text, or seconds or milliseconds since 1970; None for anything else.

    Text without a zone is taken for UTC.
    """
    try:
        if isinstance(value, datetime):
            time = value
        elif isinstance(value, str):
            time = datetime.fromisoformat(value.strip())
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            time = datetime.fromtimestamp(value / 1000 if abs(value) > _MILLISECONDS else value, UTC)
        else:
            return None
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def first_of(row: Mapping[str, Any], *keys: str) -> Any:
    """Return the value of the first key that the row has and that is not null."""
    return next((row[key] for key in keys if row.get(key) is not None), None)


def messages(value: Any) -> tuple[list[dict[str, Any]] | None, str | None]:
    """Return the roles and contents of a list of messages, and why they are unusable, or None.

    Roles and contents are not judged here; a content that is no text is "content_not_text".
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None, "no_messages" if value is None else "messages_not_a_list"
    found = []
    for message in value:
        if not isinstance(message, Mapping):
            return None, "message_not_an_object"
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str | None):
            return None, "unknown_role"
        if not isinstance(content, str | None):
            return None, "content_not_text"
        found.append({"role": role, "content": content})
    return found, None
