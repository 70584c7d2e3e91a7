"""The seed stage: labels → `dsat`, `sat` and `seed`. It knows nothing of how the labels were made.

Every DSAT and SAT turn that becomes no example is in `dropped/` with its reason.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from drift_data.chats.order import split_of
from drift_data.labels.sample import describe_earlier_sample
from drift_data.labels.stream import labels_beside
from drift_data.schema import DROPPED, DSAT, DSAT_ROWS, SAT, SAT_ROWS, SEED_ROWS
from drift_data.workspace import Build, Workspace

STAGE = "seed"
_BATCH = 1_000  # conversations
OUTPUTS = ("dsat", "sat", "seed")
_LABEL_COLUMNS = ("label", "sat_score", "dsat_score", "items", "reason", "refusal", "correct_refusal")
_NO_SEED = (
    "no DSAT turn is directly followed by a SAT turn: no warm start, iteration 0 is the base model itself"
)

Message = Mapping[str, Any]


class MineOptions(BaseModel):
    """What becomes an example."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_conversation: Literal[1, "all"] = 1  # 1: the strongest turn of each table, the later of equals
    test_fraction: float = Field(0.01, ge=0, le=1)
    # A complaint about a correct refusal teaches the model to stop refusing. Kept in any case: complaints about
    # refusals that a judge found undeserved.
    keep_refusals: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One DSAT or SAT turn of a conversation."""

    turn: int
    label: str
    score: float  # of the label's own side
    items: Sequence[str] = ()  # of the label's own side
    reason: str | None = None
    refusal: bool = False  # the judged reply is a refusal
    correct_refusal: bool | None = None  # and the request deserved it; None: nobody judged that


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that a table may get; with `reason` set, why it does not."""

    row: dict[str, Any]
    score: float
    reason: str | None = None


def mine(workspace: Workspace, labels: str, options: MineOptions) -> bool:
    """Write `dsat`, `sat` and `seed` from one label table.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the label table, such as "labels/local".
        options: what becomes an example.

    Returns:
        False when the same tables were there already.
    """

    def build(outputs: Build) -> None:
        tables = dict(zip(OUTPUTS, (DSAT_ROWS, SAT_ROWS, SEED_ROWS), strict=True))
        for name, schema in tables.items():
            outputs[name].table(schema)
        labelled, pairs, seeds = Counter[str](), 0, 0
        for batch in workspace.batches(labels, ["label"]):
            labelled.update(batch["label"].to_pylist())
        total = workspace.require("conversations").rows_out
        with tqdm(total=total, desc="seed", unit=" conv", mininterval=0.5, file=sys.stderr) as bar:
            batches = workspace.batches("conversations", ("conversation_id", "messages"), _BATCH)
            for conversations, rows in labels_beside(
                batches, workspace, labels, _LABEL_COLUMNS, where="label <> 'NEUTRAL'"
            ):
                mined: dict[str, list[Candidate]] = {name: [] for name in OUTPUTS}
                for conversation, messages, turns in _with_turns(conversations, rows):
                    for name, candidates in mine_conversation(conversation, messages, turns, options).items():
                        mined[name].extend(candidates)
                for name, schema in tables.items():
                    kept = [c.row for c in mined[name] if c.reason is None]
                    outputs[name].table(schema).write_rows(kept)
                    outputs[name].drop([_dropped(c) for c in mined[name] if c.reason is not None], DROPPED)
                pairs += len(mined["seed"])
                seeds += sum(c.reason is None for c in mined["seed"])
                bar.update(conversations.num_rows)
        for name, rows_in in (("dsat", labelled[DSAT]), ("sat", labelled[SAT]), ("seed", pairs)):
            outputs[name].rows_in = rows_in
            outputs[name].made_by = {"labels": labels}
        if seeds == 0:
            outputs["seed"].results = {"notice": _NO_SEED}
            print(f"{STAGE}: NO SEED PAIRS: {_NO_SEED}.", file=sys.stderr)

    if warning := describe_earlier_sample(workspace, labels):
        print(f"{STAGE}: {warning}", file=sys.stderr)
    choices = {"labels": labels, **options.model_dump()}
    return workspace.run(STAGE, OUTPUTS, build, options=choices, inputs=["conversations", labels])


def mine_conversation(
    conversation_id: str, messages: Sequence[Message], turns: Sequence[Turn], options: MineOptions
) -> dict[str, list[Candidate]]:
    """Return the candidates of each table that one conversation gives.

    There is one candidate in `dsat` for each DSAT turn, one in `sat` for each SAT turn, and one in `seed` for
    each DSAT turn whose next feedback turn, the answer to the revised reply, is SAT.

    Args:
        conversation_id: decides the split, too.
        messages: the whole conversation.
        turns: its DSAT and SAT turns, in order.
        options: what becomes an example.
    """
    split = split_of(conversation_id, options.test_fraction)
    found: dict[str, list[Candidate]] = {name: [] for name in OUTPUTS}
    label_of = {turn.turn: turn.label for turn in turns}
    for turn in turns:
        row: dict[str, Any] = {"conversation_id": conversation_id, "turn": turn.turn, "split": split}
        if not _is_feedback_turn(messages, turn.turn):
            found[turn.label.lower()].append(Candidate(row, turn.score, "not_a_feedback_turn"))
            continue
        reply, feedback = messages[turn.turn - 1], messages[turn.turn]
        row |= {"prompt": messages[: turn.turn - 1], "feedback": feedback["content"]}
        example = row | {"items": list(turn.items), "reason": turn.reason}
        refused = None if options.keep_refusals or turn.label != DSAT else _refused(turn)
        fault = refused or _fault(row["prompt"], reply, feedback)
        if turn.label == SAT:
            found["sat"].append(Candidate(example | {"chosen": [reply]}, turn.score, fault))
            continue
        found["dsat"].append(Candidate(example | {"rejected": [reply]}, turn.score, fault))
        if label_of.get(turn.turn + 2) == SAT and _is_feedback_turn(messages, turn.turn + 2):
            revised = messages[turn.turn + 1]
            fault = fault or _fault(row["prompt"], revised, feedback)
            if fault is None and revised["content"] == reply["content"]:
                fault = "same_reply"
            found["seed"].append(
                Candidate(row | {"rejected": [reply], "chosen": [revised]}, turn.score, fault)
            )
    if options.per_conversation == "all":
        return found
    return {name: _strongest_only(candidates) for name, candidates in found.items()}


def _is_feedback_turn(messages: Sequence[Message], turn: int) -> bool:
    return (
        0 < turn < len(messages)
        and messages[turn]["role"] == "user"
        and messages[turn - 1]["role"] == "assistant"
    )


def _refused(turn: Turn) -> str | None:
    """Return why a complaint about a refusal must not count against it, or None."""
    if not turn.refusal or turn.correct_refusal is False:
        return None
    return "correct_refusal" if turn.correct_refusal else "refusal"


def _fault(prompt: Sequence[Message], reply: Message, feedback: Message) -> str | None:
    """Return why these messages make no example, or None."""
    if not prompt or prompt[-1]["role"] != "user":
        return "prompt_without_question"
    if not (reply["content"] or "").strip():
        return "empty_reply"
    if not (feedback["content"] or "").strip():
        return "empty_feedback"
    return None


def _strongest_only(candidates: list[Candidate]) -> list[Candidate]:
    """Set all but the strongest usable candidate aside; of equals the later one stays."""
    usable = {at for at, candidate in enumerate(candidates) if candidate.reason is None}
    if not usable:
        return candidates
    best = max(usable, key=lambda at: (candidates[at].score, at))
    return [
        replace(candidate, reason="not_the_strongest") if at in usable and at != best else candidate
        for at, candidate in enumerate(candidates)
    ]


def _with_turns(
    conversations: pa.RecordBatch, rows: pa.Table
) -> Iterator[tuple[str, list[dict[str, Any]], list[Turn]]]:
    """Yield id, messages and turns of the conversations that have label rows; the others stay unread."""
    turns: dict[str, list[Turn]] = {}
    for row in rows.to_pylist():
        side = row["label"]
        turns.setdefault(row["conversation_id"], []).append(
            Turn(
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


def _dropped(candidate: Candidate) -> dict[str, Any]:
    return {key: candidate.row[key] for key in ("conversation_id", "turn")} | {
        "reason": candidate.reason,
        "detail": f"score {candidate.score:g}",
    }
