"""The rubric stage: learns from conversations with thumbs what to look for."""

from collections.abc import Sequence

from drift_data.judge.rubric import load_rubric
from drift_data.labels.tables import labels_chosen
from drift_data.llm.batch.rounds import AwaitingResults, in_rounds
from drift_data.rubric.estimate import estimate
from drift_data.rubric.extract import Extraction
from drift_data.rubric.stage import FILE, LEARNED, REASONS, learn_rubric
from drift_data.schema import DSAT, SAT
from drift_data.workspace import UserError, Workspace
from pipelines.recipe import Recipe
from pipelines.stages.data import say
from pipelines.stages.judges import asking, once, say_if_unknown


def rubric(workspace: Workspace, recipe: Recipe, inputs: Sequence[str], labels: str | None) -> None:
    """Learn a rubric and say where it is.

    Args:
        workspace: to write into.
        recipe: names the model and how to reach it.
        inputs: chats with thumbs.
        labels: instead of them a label table of the workspace, such as "simulated" or "labels/simulated".
    """
    options = recipe.label
    if options.asks is None:
        raise UserError(
            f"A rubric is learned by a language model, which JUDGE={options.judge} is not: give "
            "JUDGE=openai, vllm or batch, and MODEL=."
        )
    with asking(workspace, options, options.asks) as asked:

        @once
        def announce(extractions: Sequence[Extraction]) -> None:
            if options.asks == "openai":
                options.server.key()  # raises where it is missing
            counted = estimate(
                extractions,
                asked.sampling,
                options.learn,
                asked.store,
                asked.counter,
                asked.price,
                batch=options.asks == "batch",
            )
            print(f"estimate: {counted}")
            say_if_unknown(asked, options)

        try:
            in_rounds(
                lambda: learn_rubric(
                    workspace,
                    asked.backend,
                    asked.sampling,
                    options.learn,
                    inputs=inputs,
                    labels=labels_chosen(workspace, labels) if labels else None,
                    announce=announce,
                )
            )
        except AwaitingResults as awaiting:
            print(awaiting)
            return
    say(workspace, REASONS)
    path = workspace.path(LEARNED) / FILE
    learned = load_rubric(path)
    polarities = list(learned.polarities.values())
    print(f"{path}: {polarities.count(SAT)} + {polarities.count(DSAT)} items; label by it with RUBRIC={path}")
