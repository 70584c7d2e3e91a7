"""Reads rejected replies from `dsat` or `preferences`, and says which of them an iteration takes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from drift_data.workspace import UserError, Workspace
from drift_train.options import RolloutOptions
from drift_train.render import Message


@dataclass(frozen=True)
class Example:
    """A reply that was rejected, where it stood, and what the user said to it (None: nothing is known)."""

    conversation_id: str
    turn: int
    split: str
    prompt: list[Message]
    rejected: str
    feedback: str | None

    @property
    def key(self) -> tuple[str, int]:
        """What joins it with its rollouts."""
        return self.conversation_id, self.turn


def dsat_examples(workspace: Workspace) -> Iterator[Example]:
    """Yield the rows of `dsat`, of all splits."""
    for row in _rows(workspace, "dsat"):
        yield Example(
            row["conversation_id"],
            row["turn"],
            row["split"],
            row["prompt"],
            row["rejected"][0]["content"],
            row["feedback"],
        )


def preference_examples(workspace: Workspace) -> Iterator[Example]:
    """Yield the rows of `preferences`, of all splits; `turn` is where a complaint would stand."""
    for row in _rows(workspace, "preferences"):
        yield Example(
            row["conversation_id"],
            len(row["prompt"]) + 1,
            row["split"],
            row["prompt"],
            row["rejected"][0]["content"],
            None,
        )


def _rows(workspace: Workspace, table: str) -> Iterator[dict[str, Any]]:
    for batch in workspace.batches(table):
        yield from batch.to_pylist()


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
