"""Writes a reviewer's decisions as the label table `labels/human-<name>`.

The table holds the reviewed turns only. A turn whose text has changed since the review is dropped with that reason, so
labels and dropped turns together are exactly the reviewed turns. Each write makes the table from the whole journal.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from drift_data.judge.rubric import Rubric
from drift_data.labels.reviewer import REVIEW_STAGE, Reviewer
from drift_data.review.journal import Journal, ReviewedTurn
from drift_data.schema import DROPPED, DSAT, LABEL_ROWS, LABELS, SAT, TableName, make_label_row
from drift_data.workspace import Output, UserError, Workspace

# Strength of every item and score that a reviewer gives, because the page does not ask for degrees.
PERSON_STRENGTH: Final = 10
# Reason of a dropped turn whose text differs from what the reviewer read, or whose conversation is gone.
CHANGED_REASON: Final = "conversation_changed"


def hash_text(messages: Sequence[Mapping[str, str]], turn: int) -> str:
    """Return a hash of the text that a label is about: the judged reply and the message after it.

    Args:
        messages: messages of the conversation.
        turn: index of the message after the reply.
    """
    said = [f"{len(m['content'])}\0{m['content']}" for m in messages[turn - 1 : turn + 1]]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:24]


def check_table(workspace: Workspace, reviewer: Reviewer, revision: Sequence[int]) -> None:
    """Check that writing a reviewer's table loses nothing.

    Args:
        workspace: holds the table, if it exists.
        reviewer: whose table it is.
        revision: revision of the journal, see `Journal.read_revision`.

    Raises:
        UserError: another stage made the table, or the table has decisions that the journal does not have.
    """
    manifest = workspace.manifest(reviewer.table)
    if manifest is None:
        return
    path = workspace.path(reviewer.table)
    if manifest.stage != REVIEW_STAGE:
        raise UserError(
            f"{path} was made by `make {manifest.stage}`, not by a review. Choose another REVIEWER=."
        )
    if manifest.options["revision"][0] > revision[0]:
        raise UserError(
            f"{path} holds {manifest.rows_out:,} reviewed turns that the journal of this workspace does not have. "
            "Bring its review.sqlite back, or choose another REVIEWER=."
        )


def write_table(
    workspace: Workspace,
    reviewer: Reviewer,
    rubric: Rubric,
    reviewed: Sequence[ReviewedTurn],
    changed: Collection[tuple[str, int]],
    revision: Sequence[int],
) -> None:
    """Write the table of a reviewer.

    Args:
        workspace: holds `conversations`.
        reviewer: whose labels they are.
        rubric: gives the polarity of each item.
        reviewed: every turn that the reviewer has decided.
        changed: keys of the reviewed turns whose text is no longer what the reviewer read.
        revision: revision of the journal, see `Journal.read_revision`.

    Raises:
        UserError: another process is working in the workspace, or there are no current conversations.
    """

    def build(outputs: Mapping[str, Output]) -> None:
        out = outputs[reviewer.table]
        kept = [turn for turn in reviewed if turn.key not in changed]
        out.rows_in = len(reviewed)
        out.table(LABEL_ROWS).write_rows([_convert_turn(turn, reviewer, rubric) for turn in kept])
        out.drop([_make_changed_row(turn) for turn in reviewed if turn.key in changed], DROPPED)
        out.made_by = {
            "judge": reviewer.judge,
            "reviewed": sorted({turn.last.labels for turn in kept}),
            "blind": sum(turn.blind for turn in kept),
            "random": sum(turn.random for turn in kept),
        }
        counts = Counter(turn.last.label for turn in kept)
        out.results = {label: counts[label] for label in LABELS}

    options = {"judge": reviewer.judge, "rubric": rubric.hash, "revision": list(revision)}
    workspace.run(
        REVIEW_STAGE, [reviewer.table], build, options=options, inputs=[TableName.CONVERSATIONS], again=True
    )


def find_changed_turns(workspace: Workspace, journal: Journal, reviewer: Reviewer) -> set[tuple[str, int]]:
    """Return the keys of the reviewed turns whose text is no longer in `conversations` as the reviewer read it.

    The function reads the conversations only if they differ from those in which the texts were last found. It records
    in the journal which texts it found.
    """
    digest = workspace.require(TableName.CONVERSATIONS).digest
    wanted = {
        turn.key: turn.last.text
        for turn in journal.read_reviewed(reviewer.name)
        if turn.last.conversations != digest
    }
    if not wanted:
        return set()
    turns: dict[str, list[int]] = {}
    for name, turn in wanted:
        turns.setdefault(name, []).append(turn)
    ids, found = pa.array(list(turns), pa.string()), set()
    for batch in workspace.batches(TableName.CONVERSATIONS, ["conversation_id", "messages"], 1_000):
        for row in batch.filter(pc.is_in(batch["conversation_id"], value_set=ids)).to_pylist():
            name, messages = row["conversation_id"], row["messages"]
            for turn in turns[name]:
                if turn < len(messages) and hash_text(messages, turn) == wanted[name, turn]:
                    found.add((name, turn))
    journal.record_unchanged(reviewer.name, found, digest)
    return set(wanted) - found


def _convert_turn(turn: ReviewedTurn, reviewer: Reviewer, rubric: Rubric) -> dict[str, Any]:
    """Return the label row of a reviewed turn."""
    decision = turn.last
    return make_label_row(
        *turn.key,
        decision.label,
        sat_score=float(PERSON_STRENGTH * (decision.label == SAT)),
        dsat_score=float(PERSON_STRENGTH * (decision.label == DSAT)),
        items=[(name, rubric.polarities.get(name), PERSON_STRENGTH) for name in decision.items],
        reason=_describe_decision(turn),
        refusal=decision.refusal,
        correct_refusal=decision.correct_refusal,
        judge=reviewer.judge,
        rubric=rubric.hash,
    )


def _describe_decision(turn: ReviewedTurn) -> str:
    """Return how the label came about: what the judge said, whether that was hidden, and which selection was shown."""
    decision = turn.last
    filters = " ".join(f"{name}={value}" for name, value in sorted(decision.selection.items()))
    parts = [
        f"{decision.judge} said {decision.judge_label}",
        "decided blind" if turn.blind else "the judge's label was shown",
        filters,
    ]
    if turn.unbiased != decision.label:
        parts.insert(2, f"changed from {turn.unbiased} when it was seen")
    return "; ".join(parts)


def _make_changed_row(turn: ReviewedTurn) -> dict[str, Any]:
    """Return the row of a turn whose text has changed."""
    name, number = turn.key
    return {"conversation_id": name, "turn": number, "reason": CHANGED_REASON, "detail": turn.last.label}
