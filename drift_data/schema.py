"""The Arrow schemas of every table: the contract between the stages, and nothing else.

A table is a directory of Parquet shards with one of these schemas. `(conversation_id, turn)` is the key
everywhere: results are joined by key, never by position.
"""

from typing import Final

import pyarrow as pa

SAT: Final = "SAT"
DSAT: Final = "DSAT"
NEUTRAL: Final = "NEUTRAL"
LABELS: Final = (SAT, DSAT, NEUTRAL)

ROLES: Final = ("system", "user", "assistant")

MESSAGE: Final = pa.struct([("role", pa.string()), ("content", pa.string())])
MESSAGES: Final = pa.list_(pa.field("element", MESSAGE))
ITEM: Final = pa.struct([("name", pa.string()), ("polarity", pa.string()), ("strength", pa.int8())])


def _key(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_ID = _key("conversation_id", pa.string())
_TURN = _key("turn", pa.int32())
_SPLIT = _key("split", pa.string())
_PROMPT = _key("prompt", MESSAGES)

CONVERSATIONS: Final = pa.schema(
    [
        _ID,
        _key("source", pa.string()),
        ("model", pa.string()),
        ("timestamp", pa.timestamp("us", tz="UTC")),
        ("language", pa.string()),
        ("country", pa.string()),
        ("toxic", pa.bool_()),
        ("redacted", pa.bool_()),
        _key("messages", MESSAGES),
    ]
)

LABEL_ROWS: Final = pa.schema(
    [
        _ID,
        _TURN,  # index in `messages` of the feedback turn, a user message right after an assistant's
        _key("label", pa.string()),
        _key("sat_score", pa.float32()),  # summed strengths of the satisfaction items
        _key("dsat_score", pa.float32()),
        ("items", pa.list_(pa.field("element", ITEM))),
        ("reason", pa.string()),
        ("evidence", pa.string()),
        ("refusal", pa.bool_()),  # the judged reply is a refusal
        ("correct_refusal", pa.bool_()),  # and the request deserved it; null where nobody judged that
        _key("judge", pa.string()),  # kind:model
        _key("rubric", pa.string()),  # hash of the rubric used
    ]
)

# What a distilled classifier says of its teacher's turns.
PREDICTIONS: Final = pa.schema(
    [
        _ID,
        _TURN,
        _key("label", pa.string()),  # the teacher's
        _key("probability", pa.float32()),  # of DSAT, from models that have not seen the conversation
        ("item", pa.string()),  # they would name
        _key("predicted", pa.string()),  # label by the recipe's thresholds
        _key("held_out", pa.bool_()),  # from the finished model, which has not seen the conversation either
    ]
)

_EXAMPLE = [
    ("feedback", pa.string()),
    ("items", pa.list_(pa.field("element", pa.string()))),
    ("reason", pa.string()),
]
DSAT_ROWS: Final = pa.schema([_ID, _TURN, _SPLIT, _PROMPT, _key("rejected", MESSAGES), *_EXAMPLE])
SAT_ROWS: Final = pa.schema([_ID, _TURN, _SPLIT, _PROMPT, _key("chosen", MESSAGES), *_EXAMPLE])
SEED_ROWS: Final = pa.schema(
    [
        _ID,
        _TURN,  # of the DSAT message
        _SPLIT,
        _PROMPT,
        _key("rejected", MESSAGES),
        _key("feedback", pa.string()),
        _key("chosen", MESSAGES),
    ]
)
PREFERENCES: Final = pa.schema(
    [
        _ID,
        _SPLIT,
        _PROMPT,
        _key("chosen", MESSAGES),
        _key("rejected", MESSAGES),
        ("score_chosen", pa.float32()),
        ("score_rejected", pa.float32()),
        ("feedback", pa.string()),  # a critique of the rejected reply
    ]
)

ROLLOUTS: Final = pa.schema(
    [
        _ID,
        _TURN,
        _key("sample", pa.int32()),
        _key("kind", pa.string()),  # guided | plain
        _key("messages", MESSAGES),  # as rendered: after any shortening
        _key("completion", pa.string()),
        _key("token_ids", pa.list_(pa.field("element", pa.int32()))),
        _key("finish_reason", pa.string()),
        _key("engine", pa.string()),
        _key("seed", pa.int64()),
    ]
)
REWARDS: Final = pa.schema(
    [
        _ID,
        _TURN,
        _key("kind", pa.string()),  # with `sample`, the row of `rollouts` it is about
        _key("sample", pa.int32()),
        _key("reward", pa.float64()),  # of the reply after the training prompt
    ]
)
PAIRS: Final = pa.schema(
    [
        _PROMPT,
        _key("chosen", MESSAGES),
        _key("rejected", MESSAGES),
        _ID,
        _TURN,
        _SPLIT,
        _key("chosen_tokens", pa.int32()),
        _key("rejected_tokens", pa.int32()),
        _key("method", pa.string()),
        _key("policy", pa.string()),
    ]
)

# A measured rollout, and what three models think of its tokens: sums of log-probabilities.
HEALTH: Final = pa.schema(
    [
        _ID,
        _TURN,
        _key("sample", pa.int32()),
        _key("kind", pa.string()),
        _key("tokens", pa.int32()),
        _key("finish_reason", pa.string()),
        _key("log_prob", pa.float64()),  # of the policy that sampled it
        _key("log_prob_base", pa.float64()),  # of the model the run started from
        _key("log_prob_after", pa.float64()),  # of the policy that was trained on it
    ]
)

EVALUATION: Final = pa.schema(
    [
        _ID,  # of the held-out prompt
        _key("sample", pa.int32()),
        _key("measure", pa.string()),  # e.g. "gold"
        _key("score", pa.float64()),
        _PROMPT,
        _key("completion", pa.string()),
        _key("tokens", pa.int32()),
    ]
)

# Rows left out of a conversion: where the row is in the raw data, its id if it has one, and its beginning.
DROPPED_RAW: Final = pa.schema(
    [
        _key("location", pa.string()),  # file name and row, line or array index (from 0)
        ("conversation_id", pa.string()),
        _key("reason", pa.string()),
        ("excerpt", pa.string()),
    ]
)
# Rows left out of any later table.
DROPPED: Final = pa.schema([_ID, ("turn", pa.int32()), _key("reason", pa.string()), ("detail", pa.string())])
