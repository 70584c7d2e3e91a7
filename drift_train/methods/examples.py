"""Reads the examples that methods learn from: places in the logs with what is known of the replies there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from drift_data.workspace import Workspace
from drift_train.models.render import Message

TRAIN_SPLIT = "train"  # the split that is trained on; rows of other splits are held out


@dataclass(frozen=True)
class Example:
    """A place in the logs with what is known of the replies to it.

    Attributes:
        conversation_id: identifies the example together with `turn`.
        turn: index of the user's reaction, or where one would stand.
        split: only `TRAIN_SPLIT` is trained on.
        prompt: x, the messages before the reply.
        chosen: a reply that was good enough, if the table holds one.
        rejected: a reply that was not, if the table holds one.
        feedback: what the user said about `rejected`, or about `chosen` where that is the only reply; None where
            the table has none.
        revised: True where `chosen` comes later and answers `feedback`, as in seed pairs; False where both replies
            stand at the same place.
    """

    conversation_id: str
    turn: int
    split: str
    prompt: list[Message]
    chosen: str | None
    rejected: str | None
    feedback: str | None
    revised: bool = False

    @property
    def key(self) -> tuple[str, int]:
        """The key that joins the example with its rollouts."""
        return self.conversation_id, self.turn

    @property
    def can_guide(self) -> bool:
        """Whether the example holds a failing reply with the complaint about it."""
        return self.rejected is not None and bool((self.feedback or "").strip())


def read_examples(workspace: Workspace, table: str) -> Iterator[Example]:
    """Yield the rows of `dsat`, `sat`, `seed` or `preferences`, of all splits."""
    for batch in workspace.batches(table):
        for row in batch.to_pylist():
            yield Example(
                row["conversation_id"],
                row["turn"] if "turn" in row else len(row["prompt"]) + 1,
                row["split"],
                row["prompt"],
                _read_reply(row, "chosen"),
                _read_reply(row, "rejected"),
                row["feedback"],
                revised=table == "seed",
            )


def read_training_examples(workspace: Workspace, table: str) -> Iterator[Example]:
    """Yield the examples of a table that may be trained on."""
    return (example for example in read_examples(workspace, table) if example.split == TRAIN_SPLIT)


def _read_reply(row: Mapping[str, Any], side: str) -> str | None:
    return str(row[side][0]["content"]) if side in row else None
