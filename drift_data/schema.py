"""Defines the contract between the stages: the names of tables and labels, the columns of each table and their meaning.

A table is a folder of Parquet shards with one of these schemas. Results are joined by the key `(conversation_id, turn)`,
never by position. For messages to users the module also says which command makes which folder of a workspace.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import pyarrow as pa

# Labels of a feedback turn.
SAT: Final = "SAT"  # the message shows that the reply before it satisfied
DSAT: Final = "DSAT"  # the message shows that the reply before it did not satisfy
NEUTRAL: Final = "NEUTRAL"  # the message shows neither
LABELS: Final = (SAT, DSAT, NEUTRAL)

ROLES: Final = ("system", "user", "assistant")

# Types of columns: a message, a list of messages, a rubric item that a judge found in a turn, a list of texts.
MESSAGE: Final = pa.struct([("role", pa.string()), ("content", pa.string())])
MESSAGES: Final = pa.list_(pa.field("element", MESSAGE))
ITEM: Final = pa.struct([("name", pa.string()), ("polarity", pa.string()), ("strength", pa.int8())])
TEXTS: Final = pa.list_(pa.field("element", pa.string()))


class TableName(StrEnum):
    """Names of the tables that a workspace has once. A table's folder has the table's name.

    A workspace may have several label tables and several runs, so their tables are not here.
    """

    CONVERSATIONS = "conversations"
    PREFERENCES = "preferences"
    DSAT = "dsat"
    SAT = "sat"
    SEED = "seed"


_MAKE_COMMANDS: Final[Mapping[str, str]] = {
    # Folders outside `runs/`: the first part of the folder's name → the command.
    "simulated": "make simulate",
    TableName.CONVERSATIONS: "make convert",
    TableName.PREFERENCES: "make convert SOURCE=ultrafeedback",
    "rubric": "make rubric",
    "labels": "make label",
    "distilled": "make distill",
    "quality": "make calibrate",
    TableName.DSAT: "make seed",
    TableName.SAT: "make seed",
    TableName.SEED: "make seed",
    "base": "make warm",
    # Folders in `runs/<run>/<model>`: the last part of the folder's name → the command.
    "rollouts": "make iter N=1",
    "rewards": "make iter N=1 METHOD=iterdpo",
    "pairs": "make iter N=1",
    "model": "make iter N=1",
    "metrics": "make iter N=1",
    "health": "make iter N=1",
    "eval": "make eval",
    "heldout": "make eval",
    # `requests` names no folder: it is the view of the store of requests, which is a file.
    "requests": "make label JUDGE=openai",
}
_STAGE_TARGETS: Final = {"tiny": "warm", "sample": "label"}  # stage → its Make target, where the names differ


def find_make_command(folder: str) -> str:
    """Return the command that makes a folder of a workspace, such as "make seed" for "dsat".

    Args:
        folder: name in the workspace, such as "labels/local" or "runs/demo/iter1/pairs". For a folder of a run, the
            last part is enough.
    """
    first, *rest = folder.split("/")
    name = rest[-1] if first == "runs" and rest else first
    # `iter0` holds M0, which the warm start makes; its evaluation has a command of its own.
    command = _MAKE_COMMANDS.get(name, f"make {name}")
    return "make warm" if "iter0" in rest and "iter" in command else command


def find_make_target(stage: str) -> str:
    """Return the Make target that runs a stage, given the stage's name in a manifest."""
    return _STAGE_TARGETS.get(stage, stage)


@dataclass(frozen=True)
class TableDescription:
    """What people should know about a table. The documentation's page of tables is generated from these descriptions.

    Attributes:
        row: what one row stands for.
        schema: the columns.
        meanings: name of a column → what its values say.
    """

    row: str
    schema: pa.Schema
    meanings: Mapping[str, str]


TABLES: Final[dict[str, TableDescription]] = {}
"""Name of a table → its description; `define_table` fills it."""

_MEANING = b"meaning"


def define_column(name: str, kind: pa.DataType, meaning: str, *, required: bool = False) -> pa.Field:
    """Return a column for `define_table`.

    Args:
        name: name of the column.
        kind: type of the values.
        meaning: what a value says, for the documentation.
        required: whether the column must have a value in every row.
    """
    return pa.field(name, kind, nullable=not required, metadata={_MEANING: meaning})


def define_table(name: str, row: str, columns: Sequence[pa.Field]) -> pa.Schema:
    """Return the schema of a table and keep its description in `TABLES`.

    The meanings of the columns are not part of the schema; otherwise every better wording would change the files.

    Args:
        name: what people call the table.
        row: what one row stands for.
        columns: made by `define_column`, in order.
    """
    schema = pa.schema([column.remove_metadata() for column in columns])
    meanings = {column.name: column.metadata[_MEANING].decode() for column in columns}
    TABLES[name] = TableDescription(row, schema, meanings)
    return schema


_ID = define_column("conversation_id", pa.string(), "the chat; with `turn` the key", required=True)
_TURN = define_column(
    "turn",
    pa.int32(),
    "index in `messages` of the feedback turn, which is a user message right after an assistant's",
    required=True,
)
_SPLIT = define_column("split", pa.string(), "`train` or `test`; training reads `train` only", required=True)
_PROMPT = define_column("prompt", MESSAGES, "x: the messages before the reply", required=True)
_SAMPLE = define_column("sample", pa.int32(), "number of the sample among those of one prompt", required=True)
_KIND = define_column(
    "kind",
    pa.string(),
    "what the policy was shown: `plain` is x alone, `guided` adds a failing reply and the complaint about it",
    required=True,
)


def _reply(name: str, meaning: str) -> pa.Field:
    """Return the column of a reply: a list of one assistant message."""
    return define_column(name, MESSAGES, f"{meaning}, as one assistant message", required=True)


CONVERSATIONS: Final = define_table(
    TableName.CONVERSATIONS,
    "a chat",
    [
        define_column(
            "conversation_id", pa.string(), "begins with the source's own id; unique here", required=True
        ),
        define_column("source", pa.string(), "kind of data set, as `SOURCE=` names it", required=True),
        define_column("model", pa.string(), "the model that wrote the replies"),
        define_column("timestamp", pa.timestamp("us", tz="UTC"), "when the chat took place"),
        define_column("language", pa.string(), "as the source names it"),
        define_column("country", pa.string(), "as the source names it"),
        define_column("toxic", pa.bool_(), "whether the source flags the chat as toxic"),
        define_column("redacted", pa.bool_(), "whether the source has removed personal data from the chat"),
        define_column(
            "messages", MESSAGES, "the chat; `role` is `system`, `user` or `assistant`", required=True
        ),
    ],
)

LABEL_ROWS: Final = define_table(
    "labels",
    "a feedback turn, in `labels/<judge>`",
    [
        _ID,
        _TURN,
        define_column("label", pa.string(), "`SAT`, `DSAT` or `NEUTRAL`", required=True),
        define_column("sat_score", pa.float32(), "summed strengths of the satisfaction items", required=True),
        define_column(
            "dsat_score",
            pa.float32(),
            "summed strengths of the dissatisfaction items; from the local judge, ten times the probability of DSAT",
            required=True,
        ),
        define_column(
            "items",
            pa.list_(pa.field("element", ITEM)),
            "signs that were found: name, polarity (`SAT` or `DSAT`), strength from 1 to 10",
        ),
        define_column(
            "reason",
            pa.string(),
            "why the turn has its scores; from a language model, what the user does, such as redo",
        ),
        define_column("evidence", pa.string(), "the part of the user's message that shows the items"),
        define_column("refusal", pa.bool_(), "whether the judged reply is a refusal"),
        define_column(
            "correct_refusal", pa.bool_(), "whether the request deserved that refusal; null: nobody judged it"
        ),
        define_column(
            "judge", pa.string(), "who labelled the turn, as `kind:model` or `human:name`", required=True
        ),
        define_column("rubric", pa.string(), "hash of the rubric that was used", required=True),
    ],
)


def make_label_row(
    conversation_id: str | None,
    turn: int,
    label: str | None,
    *,
    sat_score: float,
    dsat_score: float,
    items: Iterable[tuple[str, str | None, int]],
    judge: str,
    rubric: str,
    reason: str | None = None,
    evidence: str | None = None,
    refusal: bool | None = None,
    correct_refusal: bool | None = None,
) -> dict[str, Any]:
    """Return a row of `LABEL_ROWS`.

    Args:
        conversation_id: the conversation; None: another function fills it in, as `convert` does for labels that come
            with raw data.
        turn: index in `messages` of the feedback turn.
        label: SAT, DSAT or NEUTRAL; None: the label stage decides by its thresholds.
        sat_score: summed strengths of the satisfaction items.
        dsat_score: summed strengths of the dissatisfaction items.
        items: (name, polarity, strength from 1 to 10) of each sign that was found.
        judge: who labelled the turn, such as "human:ann".
        rubric: hash or name of the rubric that was used.
        reason: why the turn has its scores.
        evidence: the part of the user's message that shows the items.
        refusal: whether the judged reply is a refusal.
        correct_refusal: whether the request deserved that refusal; None: nobody judged it.
    """
    return {
        "conversation_id": conversation_id,
        "turn": turn,
        "label": label,
        "sat_score": sat_score,
        "dsat_score": dsat_score,
        "items": [
            {"name": name, "polarity": polarity, "strength": strength} for name, polarity, strength in items
        ],
        "reason": reason,
        "evidence": evidence,
        "refusal": refusal,
        "correct_refusal": correct_refusal,
        "judge": judge,
        "rubric": rubric,
    }


PREDICTIONS: Final = define_table(
    "predictions",
    "a feedback turn that the teacher labelled, with what a classifier predicts for it; in `distilled/<name>`",
    [
        _ID,
        _TURN,
        define_column("label", pa.string(), "the teacher's label", required=True),
        define_column(
            "probability",
            pa.float32(),
            "probability of DSAT, predicted by models that did not see the conversation",
            required=True,
        ),
        define_column("item", pa.string(), "rubric item that these models predict"),
        define_column(
            "predicted",
            pa.string(),
            "label that these models predict, by the recipe's thresholds",
            required=True,
        ),
        define_column(
            "held_out",
            pa.bool_(),
            "whether the finished model made the prediction, which did not see the conversation either",
            required=True,
        ),
    ],
)

_EXAMPLE = [
    define_column("feedback", pa.string(), "the message of the feedback turn"),
    define_column("items", TEXTS, "names of the items whose polarity is the label"),
    define_column("reason", pa.string(), "the judge's reason"),
]
DSAT_ROWS: Final = define_table(
    TableName.DSAT,
    "a reply that drew a complaint",
    [_ID, _TURN, _SPLIT, _PROMPT, _reply("rejected", "the reply that drew the complaint"), *_EXAMPLE],
)
SAT_ROWS: Final = define_table(
    TableName.SAT,
    "a reply that the user was content with",
    [_ID, _TURN, _SPLIT, _PROMPT, _reply("chosen", "the reply that the user was content with"), *_EXAMPLE],
)
SEED_ROWS: Final = define_table(
    TableName.SEED,
    "a seed pair: a complaint whose next reply the user was content with",
    [
        _ID,
        define_column("turn", pa.int32(), "index in `messages` of the complaint", required=True),
        _SPLIT,
        _PROMPT,
        _reply("rejected", "the reply that drew the complaint"),
        define_column("feedback", pa.string(), "the complaint", required=True),
        _reply("chosen", "the reply that answers the complaint"),
    ],
)
PREFERENCES: Final = define_table(
    TableName.PREFERENCES,
    "a preference pair that a data set carries",
    [
        define_column("conversation_id", pa.string(), "id of the pair, the key", required=True),
        _SPLIT,
        _PROMPT,
        _reply("chosen", "the better reply"),
        _reply("rejected", "the worse reply"),
        define_column("score_chosen", pa.float32(), "the data set's score of the chosen reply"),
        define_column("score_rejected", pa.float32(), "the data set's score of the rejected reply"),
        define_column("feedback", pa.string(), "a critique of the rejected reply"),
    ],
)

ROLLOUTS: Final = define_table(
    "rollouts",
    "a reply sampled from the policy",
    [
        _ID,
        _TURN,
        _SAMPLE,
        _KIND,
        define_column(
            "messages",
            MESSAGES,
            "what the policy was shown, after any shortening",
            required=True,
        ),
        define_column("completion", pa.string(), "the reply as text", required=True),
        define_column(
            "token_ids",
            pa.list_(pa.field("element", pa.int32())),
            "the sampled tokens, including the end token",
            required=True,
        ),
        define_column(
            "finish_reason", pa.string(), "`stop`, or `length`: cut at `max_new_tokens`", required=True
        ),
        define_column("engine", pa.string(), "name of the engine that sampled the reply", required=True),
        define_column("seed", pa.int64(), "seed of this one request", required=True),
    ],
)
REWARDS: Final = define_table(
    "rewards",
    "a rollout that a reward model ranked",
    [
        _ID,
        _TURN,
        define_column(
            "kind",
            pa.string(),
            "with the key and `sample`, names the row of `rollouts` that was ranked",
            required=True,
        ),
        _SAMPLE,
        define_column(
            "reward",
            pa.float64(),
            "the reward model's score of the reply after the training prompt",
            required=True,
        ),
    ],
)
PAIRS: Final = define_table(
    "pairs",
    "a preference pair that is trained on, in TRL's conversational form",
    [
        define_column("prompt", MESSAGES, "x; its oldest turns may have been cut", required=True),
        _reply("chosen", "the reply to prefer"),
        _reply("rejected", "the reply to avoid"),
        _ID,
        _TURN,
        _SPLIT,
        define_column("chosen_tokens", pa.int32(), "tokens of the chosen reply, EOS included", required=True),
        define_column(
            "rejected_tokens", pa.int32(), "tokens of the rejected reply, EOS included", required=True
        ),
        define_column("method", pa.string(), "`drift`, `spin`, `iterdpo` or `seed`", required=True),
        define_column(
            "policy",
            pa.string(),
            "model that sampled replies of the pair, such as `iter0`; `logs` for seed pairs",
            required=True,
        ),
    ],
)

HEALTH: Final = define_table(
    "health",
    "a rollout that the iteration's health was measured on, with its log-probability by three models",
    [
        _ID,
        _TURN,
        _SAMPLE,
        _KIND,
        define_column("tokens", pa.int32(), "number of tokens of the reply", required=True),
        define_column("finish_reason", pa.string(), "`stop` or `length`", required=True),
        define_column(
            "log_prob",
            pa.float64(),
            "log-probability of the reply (nats, summed over tokens), by the policy that sampled the reply",
            required=True,
        ),
        define_column(
            "log_prob_base", pa.float64(), "the same, by the model that the run started from", required=True
        ),
        define_column(
            "log_prob_after", pa.float64(), "the same, by the policy that was trained next", required=True
        ),
    ],
)

EVALUATION: Final = define_table(
    "evaluation",
    "a reply to a held-out prompt with one measure of it, in `eval` and `heldout`",
    [
        define_column("conversation_id", pa.string(), "the held-out prompt", required=True),
        _SAMPLE,
        define_column("measure", pa.string(), "name of the measure, such as `gold`", required=True),
        define_column("score", pa.float64(), "value of that measure", required=True),
        define_column("prompt", MESSAGES, "what the model was shown", required=True),
        define_column("completion", pa.string(), "the reply as text", required=True),
        define_column("tokens", pa.int32(), "number of tokens of the reply", required=True),
    ],
)

DROPPED_RAW: Final = define_table(
    "dropped of raw data",
    "a raw row that a conversion left out, in `dropped/conversations` and the like",
    [
        define_column(
            "location", pa.string(), "file name and row, line or array index, from 0", required=True
        ),
        define_column("conversation_id", pa.string(), "the row's own id, if it has one"),
        define_column("reason", pa.string(), "one of few words, so that they can be counted", required=True),
        define_column("excerpt", pa.string(), "the beginning of the row"),
    ],
)
DROPPED: Final = define_table(
    "dropped",
    "a row that was left out of a later table, in `dropped/<table>`",
    [
        _ID,
        define_column("turn", pa.int32(), "`turn` of the row; null for a row without a turn"),
        define_column("reason", pa.string(), "one of few words, so that they can be counted", required=True),
        define_column("detail", pa.string(), "what else is known about this row"),
    ],
)
