"""Chooses the examples that an iteration of a run learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import pairwise

from drift_data.workspace import UserError, Workspace
from drift_train.methods.examples import Example, read_training_examples
from drift_train.methods.options import LoopOptions
from drift_train.options import RolloutOptions


def find_usable_examples(workspace: Workspace, options: LoopOptions) -> tuple[list[Example], list[Example]]:
    """Return the training examples that rollouts can be made of, and those that lack the feedback to guide one.

    Raises:
        UserError: there is no training example, or each of them lacks the feedback.
    """
    table = options.examples_table
    workspace.require(table)
    examples = list(read_training_examples(workspace, table))
    usable = [example for example in examples if example.can_guide or not options.is_guided]
    if usable:
        return usable, [example for example in examples if options.is_guided and not example.can_guide]
    folder = workspace.path(table)
    if examples:
        raise UserError(
            f"None of the {len(examples)} rows of split train in {folder} has feedback, so nothing can guide a "
            "rollout. Set loop.rollout.guidance=false to sample from the prompt alone."
        )
    hint = {
        "sat": "SPIN learns from replies that users were content with, and the logs hold none",
        "seed": "A guided SPIN learns from DSAT→SAT pairs; set loop.rollout.guidance=false to learn from sat",
    }.get(table, "Look at its dropped rows")
    raise UserError(
        f"{folder} has no row of split train, so nothing can be sampled. {hint}, or mine with other options."
    )


def choose_slice(examples: Iterable[Example], iteration: int, options: RolloutOptions) -> list[Example]:
    """Return the examples that an iteration takes. The seed fixes their order, whatever the table's order is.

    Args:
        examples: all that may be taken.
        iteration: number of the iteration, from 1.
        options: `examples` bounds the number of examples; with `fresh` the k-th iteration takes the k-th slice, and
            after the last slice the first one again.

    Raises:
        UserError: two examples share a key, so a rollout could not be assigned to one of them.
    """

    def rank(example: Example) -> bytes:
        text = f"{options.seed}\0{example.conversation_id}\0{example.turn}"
        return hashlib.sha256(text.encode()).digest()

    ordered = sorted(examples, key=rank)
    for one, next_one in pairwise(ordered):  # equal keys have equal ranks, so they stand side by side
        if one.key == next_one.key:
            raise UserError(
                f"Two examples are conversation {one.conversation_id!r}, turn {one.turn}: that key must be unique. "
                "Make the table again, or remove one of the rows."
            )
    if options.examples is None or options.examples >= len(ordered):
        return ordered
    start = (iteration - 1) * options.examples if options.fresh else 0
    return [ordered[(start + i) % len(ordered)] for i in range(options.examples)]
