"""Parses single values of raw JSON rows: times, texts, flags, messages. A value of the wrong type gives None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

_MAX_SECONDS = 1e11  # a number of seconds beyond this would lie after the year 5138


def parse_text(value: Any) -> str | None:
    """Return a string unchanged, an integer as a string, and None for anything else."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def replace_surrogates(text: str) -> str:
    """Return text with "?" for every lone surrogate, which JSON can write and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


def parse_flag(value: Any) -> bool | None:
    """Return a boolean unchanged, and None for anything else."""
    return value if isinstance(value, bool) else None


def parse_timestamp(value: Any) -> datetime | None:
    """Return a time in UTC from ISO 8601 text, or from seconds or milliseconds since 1970; None for anything else.

    A time without a zone counts as UTC.
    """
    try:
        if isinstance(value, datetime):
            time = value
        elif isinstance(value, str):
            time = datetime.fromisoformat(value.strip())
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            time = datetime.fromtimestamp(value / 1000 if abs(value) > _MAX_SECONDS else value, UTC)
        else:
            return None
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def find_first_value(row: Mapping[str, Any], *keys: str) -> Any:
    """Return the value of the first key that is in the row and not null; None if there is none."""
    return next((row[key] for key in keys if row.get(key) is not None), None)


def parse_messages(value: Any) -> tuple[list[dict[str, Any]] | None, str | None]:
    """Return the roles and contents of a list of messages and None, or None and the reason why they are unusable.

    Roles and contents are not judged here, except that a content that is not text gives the reason "content_not_text".
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
