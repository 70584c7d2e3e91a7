"""Writes plain conversations as WildChat-1M's own Parquet: all its columns, what is not known made up."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drift_data.simulate.wildchat import DETOXIFY_SCORES, MODERATION_CATEGORIES, WILDCHAT_SCHEMA
from drift_data.sources.fields import parse_timestamp

_IP = "0" * 64
_HEADER = {"accept-language": "en-US,en;q=0.9", "user-agent": "Mozilla/5.0 (X11; Linux x86_64)"}
_TIME = datetime(2023, 4, 9, 0, 2, 53, tzinfo=UTC)
_MODERATION = {
    "categories": dict.fromkeys(MODERATION_CATEGORIES, False),
    "category_scores": dict.fromkeys(MODERATION_CATEGORIES, 1e-5),
    "flagged": False,
}
_DETOXIFY = dict.fromkeys(DETOXIFY_SCORES, 1e-3)


def wildchat_row(chat: Mapping[str, Any], number: int = 0) -> dict[str, Any]:
    """Return a row of WildChat-1M.

    Args:
        chat: `conversation` as [{role, content}] or null, and any of the row's other columns.
        number: of the row; makes an id where the chat has none.
    """
    language, country = chat.get("language", "English"), chat.get("country", "United States")
    toxic, redacted = bool(chat.get("toxic")), bool(chat.get("redacted"))
    place = {"country": country, "state": "California", "hashed_ip": _IP, "header": _HEADER}
    nowhere = dict.fromkeys(place)
    messages = [
        message
        and {
            "content": message["content"],
            "role": message["role"],
            "language": language,
            "redacted": redacted,
            "toxic": toxic,
            "timestamp": _TIME if message["role"] == "assistant" else None,
            "turn_identifier": 100_000 + number * 100 + i,
            **(place if message["role"] == "user" else nowhere),
        }
        for i, message in enumerate(chat["conversation"] or ())
    ]
    return {
        "conversation_hash": chat.get("conversation_hash", f"{number:032x}"),
        "model": chat.get("model", "gpt-4-0314"),
        "timestamp": parse_timestamp(chat.get("timestamp", _TIME)),
        "conversation": None if chat["conversation"] is None else messages,
        "turn": len(messages) // 2,
        "language": language,
        "openai_moderation": [_MODERATION for _ in messages],
        "detoxify_moderation": [_DETOXIFY for _ in messages],
        "toxic": toxic,
        "redacted": redacted,
        **place,
    }


def write_wildchat(path: Path, chats: Sequence[Mapping[str, Any]], **options: Any) -> Path:
    """Write conversations as one WildChat-1M file; `options` go to `pyarrow.parquet.write_table`."""
    rows = [wildchat_row(chat, number) for number, chat in enumerate(chats)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=WILDCHAT_SCHEMA), path, **options)
    return path


def chat(*contents: str, first: str = "user", **more: Any) -> dict[str, Any]:
    """Return a conversation whose messages alternate, as `write_wildchat` takes it."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return {"conversation": messages, **more}
