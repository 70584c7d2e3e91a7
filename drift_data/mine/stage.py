"""Runs `make seed`: reads a label table beside its conversations and writes `dsat`, `sat` and `seed`.

Every DSAT and SAT turn that becomes no example goes to `dropped/` with its reason.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from drift_data.labels.sample import describe_earlier_sample
from drift_data.labels.stream import iter_with_labels
from drift_data.mine.options import MineOptions
from drift_data.mine.rules import MINED_TABLES, LabelledTurn, MinedRow, mine_conversation
from drift_data.schema import DROPPED, DSAT, DSAT_ROWS, SAT, SAT_ROWS, SEED_ROWS, TableName
from drift_data.workspace import Output, Workspace

SEED_STAGE = "seed"
_BATCH_CONVERSATIONS = 1_000  # conversations that are read at once
_LABEL_COLUMNS = ("label", "sat_score", "dsat_score", "items", "reason", "refusal", "correct_refusal")
_NO_SEED_NOTICE = (
    "no DSAT turn is directly followed by a SAT turn: no warm start, iteration 0 is the base model itself"
)


def mine(workspace: Workspace, labels: str, options: MineOptions) -> bool:
    """Write `dsat`, `sat` and `seed` from one label table.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the label table, such as "labels/local".
        options: which labelled turns become examples.

    Returns:
        True when the tables were made, False when the same tables were there already.
    """

    def build(outputs: Mapping[str, Output]) -> None:
        tables = dict(zip(MINED_TABLES, (DSAT_ROWS, SAT_ROWS, SEED_ROWS), strict=True))
        for name, schema in tables.items():
            outputs[name].table(schema)
        labelled, pairs, seeds = Counter[str](), 0, 0
        for batch in workspace.batches(labels, ["label"]):
            labelled.update(batch["label"].to_pylist())
        total = workspace.require(TableName.CONVERSATIONS).rows_out
        with tqdm(total=total, desc="seed", unit=" conv", mininterval=0.5, file=sys.stderr) as bar:
            batches = workspace.batches(
                TableName.CONVERSATIONS, ("conversation_id", "messages"), _BATCH_CONVERSATIONS
            )
            for conversations, rows in iter_with_labels(
                batches, workspace, labels, _LABEL_COLUMNS, where="label <> 'NEUTRAL'"
            ):
                mined: dict[str, list[MinedRow]] = {name: [] for name in MINED_TABLES}
                for conversation, messages, turns in _iter_labelled_conversations(conversations, rows):
                    for name, candidates in mine_conversation(conversation, messages, turns, options).items():
                        mined[name].extend(candidates)
                for name, schema in tables.items():
                    kept = [c.row for c in mined[name] if c.reason is None]
                    outputs[name].table(schema).write_rows(kept)
                    outputs[name].drop(
                        [_make_dropped_row(c) for c in mined[name] if c.reason is not None], DROPPED
                    )
                pairs += len(mined[TableName.SEED])
                seeds += sum(c.reason is None for c in mined[TableName.SEED])
                bar.update(conversations.num_rows)
        for name, rows_in in (
            (TableName.DSAT, labelled[DSAT]),
            (TableName.SAT, labelled[SAT]),
            (TableName.SEED, pairs),
        ):
            outputs[name].rows_in = rows_in
            outputs[name].made_by = {"labels": labels}
        if seeds == 0:
            outputs[TableName.SEED].results = {"notice": _NO_SEED_NOTICE}
            print(f"{SEED_STAGE}: NO SEED PAIRS: {_NO_SEED_NOTICE}.", file=sys.stderr)

    if warning := describe_earlier_sample(workspace, labels):
        print(f"{SEED_STAGE}: {warning}", file=sys.stderr)
    choices = {"labels": labels, **options.model_dump()}
    return workspace.run(
        SEED_STAGE, MINED_TABLES, build, options=choices, inputs=[TableName.CONVERSATIONS, labels]
    )


def _iter_labelled_conversations(
    conversations: pa.RecordBatch, rows: pa.Table
) -> Iterator[tuple[str, list[dict[str, Any]], list[LabelledTurn]]]:
    """Yield id, messages and turns of the conversations that have label rows.

    Args:
        conversations: a batch with ids and messages. The messages of a conversation without label rows are not decoded.
        rows: label rows of these conversations.
    """
    turns: dict[str, list[LabelledTurn]] = {}
    for row in rows.to_pylist():
        side = row["label"]
        turns.setdefault(row["conversation_id"], []).append(
            LabelledTurn(
                turn=row["turn"],
                label=side,
                score=row[f"{side.lower()}_score"],
                items=[item["name"] for item in row["items"] or () if item["polarity"] == side],
                reason=row["reason"],
                refusal=bool(row["refusal"]),
                correct_refusal=row["correct_refusal"],
            )
        )
    messages = conversations["messages"]
    for at, conversation in enumerate(conversations["conversation_id"].to_pylist()):
        if conversation in turns:
            yield conversation, messages[at].as_py(), turns[conversation]


def _make_dropped_row(candidate: MinedRow) -> dict[str, Any]:
    return {key: candidate.row[key] for key in ("conversation_id", "turn")} | {
        "reason": candidate.reason,
        "detail": f"score {candidate.score:g}",
    }
