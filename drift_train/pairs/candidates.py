"""What a method takes from the workspace: examples to be asked and, once they are sampled, candidates for pairs.

Rollouts are joined with their examples and rewards by key; which reply is which is the method's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drift_data.workspace import UserError, Workspace
from drift_train.methods import METHODS
from drift_train.methods.base import GUIDED, Answer, training_prompt
from drift_train.methods.examples import Example, read_examples
from drift_train.models.render import Message
from drift_train.options import LoopOptions
from drift_train.pairs.filters import TRAIN, Candidate, PairFilter

READ = ["conversation_id", "turn", "sample", "kind", "messages", "completion", "finish_reason"]  # of rollouts


def table_of(options: LoopOptions) -> str:
    """Return the table that the method of a run reads."""
    return METHODS[options.method].table(options.examples, options.guided)


def train_rows(workspace: Workspace, table: str) -> Iterator[Example]:
    """Yield the examples of a table that may be trained on."""
    return (example for example in read_examples(workspace, table) if example.split == TRAIN)


def usable_examples(workspace: Workspace, options: LoopOptions) -> tuple[list[Example], list[Example]]:
    """Return the training examples that can be asked, and those without the feedback that would guide.

    Raises:
        UserError: there is none that can be asked.
    """
    table = table_of(options)
    workspace.require(table)
    examples = list(train_rows(workspace, table))
    usable = [example for example in examples if example.guides or not options.guided]
    if usable:
        return usable, [example for example in examples if options.guided and not example.guides]
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


def seed_candidates(workspace: Workspace, keep: PairFilter) -> Iterator[Candidate]:
    """Yield the pairs of `seed`; a prompt loses its oldest turns if only so both replies fit."""
    for example in train_rows(workspace, "seed"):
        chosen, rejected = Answer(example.chosen or "", informed=True), Answer(example.rejected or "")
        prompt = keep.shortened(example.prompt, chosen.text, rejected.text)
        shortened = len(prompt) < len(example.prompt)
        yield Candidate(*example.key, example.split, prompt, [(chosen, rejected)], shortened=shortened)


def rollout_candidates(
    workspace: Workspace, rollouts: str, rewards: str | None, options: LoopOptions
) -> Iterator[Candidate]:
    """Yield what each example that was sampled may become.

    Args:
        workspace: holds them.
        rollouts: the table of the samples.
        rewards: the table of their rewards, where they are ranked.
        options: name the method, and the table of its examples.
    """
    method = METHODS[options.method]
    examples = {example.key: example for example in train_rows(workspace, table_of(options))}
    scores = {
        (row["conversation_id"], row["turn"], row["kind"], row["sample"]): row["reward"]
        for batch in (workspace.batches(rewards) if rewards else ())
        for row in batch.to_pylist()
    }
    prompts: dict[tuple[str, int], Sequence[Message]] = {}
    sampled: dict[tuple[str, int], dict[str, dict[int, Answer]]] = {}
    for batch in workspace.batches(rollouts, columns=READ):  # tokens as Python numbers would fill the memory
        for row in batch.to_pylist():
            key, kind, number = (row["conversation_id"], row["turn"]), row["kind"], row["sample"]
            prompts[key] = training_prompt(kind, row["messages"])
            score = scores[*key, kind, number] if rewards else None
            cut, informed = row["finish_reason"] == "length", kind == GUIDED
            answer = Answer(row["completion"], cut, informed, score)
            sampled.setdefault(key, {}).setdefault(kind, {})[number] = answer
    for key, kinds in sampled.items():
        samples = {kind: [answers[number] for number in sorted(answers)] for kind, answers in kinds.items()}
        pairs = method.pairs(examples[key], samples)
        yield Candidate(*key, examples[key].split, prompts[key], pairs)
