"""`make rubric`: a rubric of what to look for, learned from conversations with a thumb up or down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.caller import tell
from pipelines.options import (
    RECIPE,
    WORK,
    BaseUrl,
    Budget,
    FinalOption,
    LLMName,
    Offline,
    RecipeName,
    Results,
    Set,
    Work,
    llm_overrides,
    open_workspace,
    with_batch_files,
)

if TYPE_CHECKING:
    from drift_data.rubric.extract import Extraction

LLMKind = Annotated[
    str | None, typer.Option(help="How the language model is reached: openai, vllm or batch.")
]


def rubric(
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="JSON Lines of chats with a thumb each.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Instead of --input: labels of this workspace as thumbs.")
    ] = None,
    judge: LLMKind = None,
    model: LLMName = None,
    base_url: BaseUrl = None,
    budget: Budget = None,
    offline: Offline = False,
    results: Results = None,
    final: FinalOption = False,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    overrides: Set = None,
) -> None:
    """Learn a rubric from thumb-labelled conversations (SPUR, phases 1 and 2)."""
    named = llm_overrides(judge, model, base_url, budget)
    workspace, loaded = open_workspace(work, recipe, overrides, **named)
    from drift_data.judge.rubric import load_rubric
    from drift_data.labels.tables import find_labels
    from drift_data.llm.batch.rounds import AwaitingResults, run_in_rounds
    from drift_data.llm.server import read_key
    from drift_data.rubric.estimate import estimate_learning
    from drift_data.rubric.stage import LEARNED_TABLE, REASONS_TABLE, RUBRIC_FILE, learn_rubric
    from drift_data.schema import DSAT, SAT
    from drift_data.workspace import UserError
    from pipelines.console import print_counts
    from pipelines.judges import open_llm, print_if_price_unknown, run_once

    options = with_batch_files(loaded, offline, results, final).label
    if options.asks is None:
        raise UserError(
            f"A rubric is learned by a language model, which JUDGE={options.judge} is not: give "
            "JUDGE=openai, vllm or batch, and MODEL=."
        )
    with open_llm(workspace, options, options.asks) as access:

        @run_once
        def announce(extractions: Sequence[Extraction]) -> None:
            if options.asks == "openai":
                read_key(options.server)  # a missing key is an error before the estimate takes its time
            expected = estimate_learning(
                extractions,
                access.sampling,
                options.learn,
                access.store,
                access.counter,
                access.price,
                batch=options.asks == "batch",
            )
            print(f"estimate: {expected}")
            print_if_price_unknown(access, options)

        try:
            run_in_rounds(
                lambda: learn_rubric(
                    workspace,
                    access.backend,
                    access.sampling,
                    options.learn,
                    inputs=inputs or [],
                    labels=find_labels(workspace, labels) if labels else None,
                    announce=announce,
                )
            )
        except AwaitingResults as awaiting:
            tell(str(awaiting))
            return
    print_counts(workspace, REASONS_TABLE)
    path = workspace.path(LEARNED_TABLE) / RUBRIC_FILE
    polarities = list(load_rubric(path).polarities.values())
    tell(f"{path}: {polarities.count(SAT)} + {polarities.count(DSAT)} items; label by it with RUBRIC={path}")
