"""Puts simulated messages into rows of WildChat-1M's own Parquet schema.

Places, headers and moderation scores are made up from a seed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa

_SELF_HARM = ("self-harm", "self-harm/instructions", "self-harm/intent")
MODERATION_CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "harassment_threatening",
    "hate",
    "hate/threatening",
    "hate_threatening",
    *_SELF_HARM,
    "self_harm",
    "self_harm_instructions",
    "self_harm_intent",
    "sexual",
    "sexual/minors",
    "sexual_minors",
    "violence",
    "violence/graphic",
    "violence_graphic",
)
DETOXIFY_SCORES: Final = (
    "identity_attack",
    "insult",
    "obscene",
    "severe_toxicity",
    "sexual_explicit",
    "threat",
    "toxicity",
)
_TIME = pa.timestamp("us", tz="UTC")
_HEADER = pa.struct([("accept-language", pa.string()), ("user-agent", pa.string())])
_MESSAGE = pa.struct(
    [
        ("content", pa.string()),
        ("country", pa.string()),
        ("hashed_ip", pa.string()),
        ("header", _HEADER),
        ("language", pa.string()),
        ("redacted", pa.bool_()),
        ("role", pa.string()),
        ("state", pa.string()),
        ("timestamp", _TIME),
        ("toxic", pa.bool_()),
        ("turn_identifier", pa.int64()),
    ]
)
_MODERATION = pa.struct(
    [
        ("categories", pa.struct([(name, pa.bool_()) for name in MODERATION_CATEGORIES])),
        ("category_scores", pa.struct([(name, pa.float64()) for name in MODERATION_CATEGORIES])),
        ("flagged", pa.bool_()),
    ]
)
_DETOXIFY = pa.struct([(name, pa.float64()) for name in DETOXIFY_SCORES])
WILDCHAT_SCHEMA: Final = pa.schema(
    [
        ("conversation_hash", pa.string()),
        ("model", pa.string()),
        ("timestamp", _TIME),
        ("conversation", pa.list_(_MESSAGE)),
        ("turn", pa.int64()),
        ("language", pa.string()),
        ("openai_moderation", pa.list_(_MODERATION)),
        ("detoxify_moderation", pa.list_(_DETOXIFY)),
        ("toxic", pa.bool_()),
        ("redacted", pa.bool_()),
        ("state", pa.string()),
        ("country", pa.string()),
        ("hashed_ip", pa.string()),
        ("header", _HEADER),
    ]
)

# Country, state, and the header `accept-language` of users there.
_PLACES: Final = (
    ("United States", "California", "en-US,en;q=0.9"),
    ("United States", "Texas", "en-US,en;q=0.9"),
    ("United Kingdom", "England", "en-GB,en;q=0.8"),
    ("France", "Île-de-France", "fr-FR,fr;q=0.9,en;q=0.6"),
    ("Russia", "Moscow", "ru-RU,ru;q=0.9"),
    ("China", "Guangdong", "zh-CN,zh;q=0.9"),
    ("Germany", "Berlin", "de-DE,de;q=0.9"),
    ("India", None, "en-IN,en;q=0.8"),
)
_USER_AGENT = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"
)
# When the first conversation begins, in microseconds since 1970.
_FIRST_TIME = int(datetime(2023, 4, 9, tzinfo=UTC).timestamp()) * 1_000_000
# Microseconds from one conversation's beginning to the next, before a random delay is added to each.
_CHAT_INTERVAL = 37_000_000
_MAX_DELAY = 30_000_000  # longest delay of a conversation's beginning, in microseconds
_MESSAGE_INTERVAL = 9_000_000  # from one message to the next, in microseconds
_SCORE_POOL = 4096  # made-up sets of moderation scores, from which one is drawn for each message


class WildChatRows:
    """Makes WildChat rows from messages, a batch at a time.

    Args:
        seed: determines everything that is made up.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self._seed = seed
        scores = self.rng.beta(0.3, 30, (_SCORE_POOL, len(MODERATION_CATEGORIES)))
        flags = [pa.array(np.zeros(_SCORE_POOL, bool))] * len(MODERATION_CATEGORIES)
        self._moderation = pa.StructArray.from_arrays(
            [
                pa.StructArray.from_arrays(flags, fields=list(_MODERATION.field("categories").type)),
                pa.StructArray.from_arrays(
                    [pa.array(column) for column in scores.T],
                    fields=list(_MODERATION.field("category_scores").type),
                ),
                pa.array(np.zeros(_SCORE_POOL, bool)),
            ],
            fields=list(_MODERATION),
        )
        toxicity = self.rng.beta(0.3, 30, (_SCORE_POOL, len(DETOXIFY_SCORES)))
        self._detoxify = pa.StructArray.from_arrays(
            [pa.array(column) for column in toxicity.T], fields=list(_DETOXIFY)
        )
        self._places = [pa.array(column, pa.string()) for column in zip(*_PLACES, strict=True)]

    def make_batch(
        self, first: int, contents: pa.Array, lengths: np.ndarray, models: pa.Array
    ) -> pa.RecordBatch:
        """Return the WildChat rows of conversations whose messages alternate user, assistant, user, …

        Args:
            first: number of the first conversation; ids are made from this number and the seed.
            contents: the messages of all conversations, one after the other (string).
            lengths: how many messages each conversation has, (conversations,).
            models: the model of each conversation (string).
        """
        count, total = len(lengths), len(contents)
        ends = np.cumsum(lengths)
        offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
        owner = np.repeat(np.arange(count), lengths)
        place_in_chat = np.arange(total) - np.repeat(ends - lengths, lengths)
        is_reply = place_in_chat % 2 == 1

        place = self.rng.integers(0, len(_PLACES), count)
        country, state, accept = (column.take(pa.array(place)) for column in self._places)
        hashed_ip = _draw_hex(self.rng, count, 32)
        header = pa.StructArray.from_arrays([accept, pa.repeat(_USER_AGENT, count)], fields=list(_HEADER))
        times = (
            _FIRST_TIME
            + (first + np.arange(count)) * _CHAT_INTERVAL
            + self.rng.integers(0, _MAX_DELAY, count)
        )
        language = pa.repeat("English", count)

        user_only = pa.array(owner, mask=is_reply)  # a null index gives null
        reply_time = times[owner] + (place_in_chat + 1) * _MESSAGE_INTERVAL
        flags = pa.array(np.zeros(total, bool))
        message = pa.StructArray.from_arrays(
            [
                contents,
                country.take(user_only),
                hashed_ip.take(user_only),
                header.take(user_only),
                pa.repeat("English", total),
                flags,
                pa.array(["user", "assistant"]).take(pa.array(is_reply.astype(np.int8))),
                state.take(user_only),
                pa.array(reply_time, mask=~is_reply).cast(_TIME),
                flags,
                pa.array(100_000 + first * 64 + np.arange(total)),
            ],
            fields=list(_MESSAGE),
        )
        scored = pa.array(self.rng.integers(0, _SCORE_POOL, total))
        no = pa.array(np.zeros(count, bool))
        columns = [
            _draw_ids(self._seed, first, count),
            models,
            pa.array(times + lengths * _MESSAGE_INTERVAL).cast(_TIME),
            _make_lists(offsets, message, "conversation"),
            pa.array((lengths // 2).astype(np.int64)),
            language,
            _make_lists(offsets, self._moderation.take(scored), "openai_moderation"),
            _make_lists(offsets, self._detoxify.take(scored), "detoxify_moderation"),
            no,
            no,
            state,
            country,
            hashed_ip,
            header,
        ]
        return pa.RecordBatch.from_arrays(columns, schema=WILDCHAT_SCHEMA)


def _make_lists(offsets: pa.Array, values: pa.Array, name: str) -> pa.ListArray:
    """Return values as lists, with the type of the schema's column `name`."""
    return pa.ListArray.from_arrays(offsets, values, type=WILDCHAT_SCHEMA.field(name).type)


def _draw_hex(rng: np.random.Generator, count: int, digits: int) -> pa.Array:
    """Draw `count` lower-case hexadecimal strings of `digits` digits each."""
    alphabet = np.frombuffer(b"0123456789abcdef", np.uint8)
    data = alphabet[rng.integers(0, 16, count * digits, dtype=np.uint8)]
    offsets = pa.py_buffer(np.arange(0, count * digits + 1, digits, dtype=np.int32))
    return pa.StringArray.from_buffers(count, offsets, pa.py_buffer(data))


def _draw_ids(seed: int, first: int, count: int) -> pa.Array:
    """Return conversation hashes of 32 hex digits: 22 random ones, then the conversation's number."""
    digits = _draw_hex(np.random.default_rng([seed, first]), count, 22).to_pylist()
    return pa.array([f"{head}{first + i:010x}" for i, head in enumerate(digits)])
