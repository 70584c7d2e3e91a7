"""Reads examples from the tables that methods learn from, and says which of them an iteration takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from drift_data.workspace import UserError, Workspace
from drift_train.models.render import Message
from drift_train.options import RolloutOptions


@dataclass(frozen=True)
class Example:
    """A place in the logs with what is known of the replies to it.

    Attributes:
        conversation_id: with `turn` the key.
        turn: of the user's reaction, or where one would stand.
        split: only "train" is trained on.
        prompt: x, the messages before the reply.
        chosen: a reply that was good enough, if the table holds one.
        rejected: a reply that was not, if the table holds one.
        feedback: what was said to `rejected`, or to `chosen` where that is the only reply; None: nothing is known.
        revised: `chosen` answers `feedback`; otherwise both replies stand at the same place.
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
        """What joins it with its rollouts."""
        return self.conversation_id, self.turn

    @property
    def guides(self) -> bool:
        """Whether it holds a failing reply with the complaint about it."""
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
                _reply(row, "chosen"),
                _reply(row, "rejected"),
                row["feedback"],
                revised=table == "seed",
            )


def _reply(row: Mapping[str, Any], side: str) -> str | None:
    return str(row[side][0]["content"]) if side in row else None


def slice_of_iteration(examples: Iterable[Example], iteration: int, options: RolloutOptions) -> list[Example]:
    """Return the examples that an iteration takes, in an order that the seed fixes whatever the table's order
    is.

    Args:
        examples: all that may be taken.
        iteration: from 1.
        options: `examples` bounds their number; with `fresh` the k-th iteration takes the k-th slice, and
            after the last one begins again.

    Raises:
        UserError: two of them have one key, so a rollout could not say which it belongs to.
    """

    def rank(example: Example) -> bytes:
        text = f"{options.seed}\0{example.conversation_id}\0{example.turn}"
        return hashlib.sha256(text.encode()).digest()

    ordered = sorted(examples, key=rank)
    for one, next_one in pairwise(ordered):  # equal keys have equal ranks
        if one.key == next_one.key:
            raise UserError(
                f"Two examples are conversation {one.conversation_id!r}, turn {one.turn}: that key must be unique. "
                "Make the table again, or remove one of the rows."
            )
    if options.examples is None or options.examples >= len(ordered):
        return ordered
    start = (iteration - 1) * options.examples if options.fresh else 0
    return [ordered[(start + i) % len(ordered)] for i in range(options.examples)]
