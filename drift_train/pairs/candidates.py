"""Makes candidates for pairs: joins rollouts with their examples and rewards by key, and asks the method to pair them."""

from __future__ import annotations

from collections.abc import Iterator

from drift_data.workspace import Workspace
from drift_train.methods import METHODS
from drift_train.methods.base import GUIDED, Reply, training_prompt
from drift_train.methods.examples import read_training_examples
from drift_train.methods.options import LoopOptions
from drift_train.models.render import Messages
from drift_train.pairs.filters import PairCandidate, PairFilter

# Columns of `rollouts` that are read. Not `token_ids`: as Python numbers they would fill the memory.
ROLLOUT_COLUMNS = ["conversation_id", "turn", "sample", "kind", "messages", "completion", "finish_reason"]


def make_seed_candidates(workspace: Workspace, keep: PairFilter) -> Iterator[PairCandidate]:
    """Yield a candidate for each seed pair, its prompt shortened until both replies fit."""
    for example in read_training_examples(workspace, "seed"):
        chosen, rejected = Reply(example.chosen or "", informed=True), Reply(example.rejected or "")
        prompt = keep.shorten_prompt(example.prompt, chosen.text, rejected.text)
        shortened = len(prompt) < len(example.prompt)
        yield PairCandidate(*example.key, example.split, prompt, [(chosen, rejected)], shortened=shortened)


def make_rollout_candidates(
    workspace: Workspace, rollouts: str, rewards: str | None, options: LoopOptions
) -> Iterator[PairCandidate]:
    """Yield a candidate for each sampled example: the pairs that it may become.

    Args:
        workspace: holds the tables.
        rollouts: name of the table of samples.
        rewards: name of the table of their rewards, or None where samples are not ranked.
        options: name the method, and the table of its examples.
    """
    method = METHODS[options.method]
    examples = {example.key: example for example in read_training_examples(workspace, options.examples_table)}
    scores = {
        (row["conversation_id"], row["turn"], row["kind"], row["sample"]): row["reward"]
        for batch in (workspace.batches(rewards) if rewards else ())
        for row in batch.to_pylist()
    }
    prompts: dict[tuple[str, int], Messages] = {}
    sampled: dict[tuple[str, int], dict[str, dict[int, Reply]]] = {}  # key → kind → sample's number → reply
    for batch in workspace.batches(rollouts, columns=ROLLOUT_COLUMNS):
        for row in batch.to_pylist():
            key, kind, number = (row["conversation_id"], row["turn"]), row["kind"], row["sample"]
            prompts[key] = training_prompt(kind, row["messages"])
            reward = scores[*key, kind, number] if rewards else None
            cut, informed = row["finish_reason"] == "length", kind == GUIDED
            reply = Reply(row["completion"], cut, informed, reward)
            sampled.setdefault(key, {}).setdefault(kind, {})[number] = reply
    for key, kinds in sampled.items():
        samples = {kind: [replies[number] for number in sorted(replies)] for kind, replies in kinds.items()}
        pairs = method.pair_replies(examples[key], samples)
        yield PairCandidate(*key, examples[key].split, prompts[key], pairs)
