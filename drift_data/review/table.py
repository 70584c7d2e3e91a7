"""A reviewer's decisions → `labels/human-<name>`, with what no longer fits the conversations set aside.

The table is partial: it holds what was reviewed and nothing else; labels and dropped turns together are exactly
the reviewed turns. It is made from the journal as a whole, so it cannot be behind it for longer than a write.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from drift_data.judge.rubric import Rubric
from drift_data.labels.reviewer import STAGE, Reviewer
from drift_data.review.journal import Journal, Reviewed
from drift_data.schema import DROPPED, DSAT, LABEL_ROWS, LABELS, SAT, TableName, make_label_row
from drift_data.workspace import Output, UserError, Workspace

STRENGTH: Final = 10  # of what a person says: people give no degrees here
CHANGED: Final = "conversation_changed"  # since it was reviewed, or it is no longer there


def text_digest(messages: Sequence[Mapping[str, str]], turn: int) -> str:
    """Return a digest of the judged reply and the message after it: what a label is about."""
    said = [f"{len(m['content'])}\0{m['content']}" for m in messages[turn - 1 : turn + 1]]
    return hashlib.sha256("\0".join(said).encode()).hexdigest()[:24]


def check_table(workspace: Workspace, reviewer: Reviewer, revision: Sequence[int]) -> None:
    """Raise when writing the table would lose what the journal does not have.

    Raises:
        UserError: another stage made the table, or its journal is gone.
    """
    manifest = workspace.manifest(reviewer.table)
    if manifest is None:
        return
    path = workspace.path(reviewer.table)
    if manifest.stage != STAGE:
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
    reviewed: Sequence[Reviewed],
    changed: Collection[tuple[str, int]],
    revision: Sequence[int],
) -> None:
    """Write the table of a reviewer.

    Args:
        workspace: holds `conversations`.
        reviewer: whose labels they are.
        rubric: says on which side an item is.
        reviewed: everything the person has reviewed.
        changed: keys of these whose text is not what was read.
        revision: of the journal.

    Raises:
        UserError: another process is working in the workspace, or there are no current conversations.
    """

    def build(outputs: Mapping[str, Output]) -> None:
        out = outputs[reviewer.table]
        kept = [turn for turn in reviewed if turn.key not in changed]
        out.rows_in = len(reviewed)
        out.table(LABEL_ROWS).write_rows([_row(turn, reviewer, rubric) for turn in kept])
        out.drop([_dropped(turn) for turn in reviewed if turn.key in changed], DROPPED)
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
        STAGE, [reviewer.table], build, options=options, inputs=[TableName.CONVERSATIONS], again=True
    )


def changed_turns(workspace: Workspace, journal: Journal, reviewer: Reviewer) -> set[tuple[str, int]]:
    """Return the reviewed turns whose text is no longer in `conversations` as it was read.

    Reads the conversations only when they are not those in which the texts were last found.
    """
    digest = workspace.require(TableName.CONVERSATIONS).digest
    wanted = {
        turn.key: turn.last.text
        for turn in journal.reviewed(reviewer.name)
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
                if turn < len(messages) and text_digest(messages, turn) == wanted[name, turn]:
                    found.add((name, turn))
    journal.found_again(reviewer.name, found, digest)
    return set(wanted) - found


def _row(turn: Reviewed, reviewer: Reviewer, rubric: Rubric) -> dict[str, Any]:
    decision = turn.last
    return make_label_row(
        *turn.key,
        decision.label,
        sat_score=float(STRENGTH * (decision.label == SAT)),
        dsat_score=float(STRENGTH * (decision.label == DSAT)),
        items=[(name, rubric.polarities.get(name), STRENGTH) for name in decision.items],
        reason=_reason(turn),
        refusal=decision.refusal,
        correct_refusal=decision.correct_refusal,
        judge=reviewer.judge,
        rubric=rubric.hash,
    )


def _reason(turn: Reviewed) -> str:
    """Return how the label came about: what the judge had said, whether that was hidden, in which order."""
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


def _dropped(turn: Reviewed) -> dict[str, Any]:
    name, number = turn.key
    return {"conversation_id": name, "turn": number, "reason": CHANGED, "detail": turn.last.label}
