"""`make label`: conversations → labels. Says what it will take, then labels every feedback turn with the recipe's judge."""

from __future__ import annotations

from pathlib import Path
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
    from drift_data.judge.cascade import CascadeJudge
    from drift_data.judge.options import LabelOptions, Thresholds
    from drift_data.judge.spur.estimate import AskingJudge
    from drift_data.judge.spur.judge import LLMJudge
    from drift_data.labels.sample import Sample
    from drift_data.workspace import Workspace
    from pipelines.judges import LLMAccess

# Reasons for which a turn has no label, and which a second request may remove.
_RETRIABLE_REASONS = ("request_failed", "no_answer")

JudgeOption = Annotated[
    str | None, typer.Option(help="local, dataset, or one that asks a model: cascade, openai, vllm, batch.")
]


def label(
    judge: JudgeOption = None,
    model: LLMName = None,
    base_url: BaseUrl = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the label table; default: the judge's kind, local-NAME with --classifier."
        ),
    ] = None,
    rubric: Annotated[
        Path | None, typer.Option(help="YAML file of the rubric; default: the recipe's.")
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="thresholds.yaml that calibrate has written.")
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="With --judge local: model.npz or name of a distilled one; default: the shipped one."
        ),
    ] = None,
    budget: Budget = None,
    sample: Annotated[
        int | None, typer.Option(help="Label only this many conversations, and extrapolate the cost.", min=1)
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print what labelling would take, and ask nothing.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Ask once more for turns without a label.")] = False,
    offline: Offline = False,
    results: Results = None,
    final: FinalOption = False,
    work: Work = WORK,
    recipe: RecipeName = RECIPE,
    overrides: Set = None,
) -> None:
    """Label every feedback turn SAT, DSAT or NEUTRAL."""
    named = llm_overrides(judge, model, base_url, budget)
    named |= {"label.name": name, "label.rubric": None if rubric is None else str(rubric)}
    workspace, loaded = open_workspace(work, recipe, overrides, **named, **{"label.classifier": classifier})
    from drift_data.calibrate.thresholds import read_thresholds
    from drift_data.judge.stage import label as label_turns
    from drift_data.labels.sample import choose_sample
    from drift_data.labels.tables import name_label_table
    from drift_data.workspace import UserError
    from pipelines.console import print_counts
    from pipelines.judges import make_embedded_judge, make_llm_judge, open_llm

    if classifier is not None and loaded.label.judge not in ("local", "cascade"):
        raise UserError(f"CLASSIFIER= is for JUDGE=local, not {loaded.label.judge}.")
    options = with_batch_files(loaded, offline, results, final).label
    limits = options.thresholds if thresholds is None else read_thresholds(thresholds)
    table = name_label_table(options.table, sample)
    drawn = None if sample is None else choose_sample(workspace, table, sample)
    if options.asks is None:
        if estimate:
            tell(f"JUDGE={options.judge} asks no language model: it costs nothing.")
            return
        embedded = make_embedded_judge(workspace, options)
        label_turns(workspace, embedded, limits, options.table, sample=sample, again=again)
        print_counts(workspace, table)
        return
    with open_llm(workspace, options, options.asks) as access:
        asking = make_llm_judge(workspace, access, options)
        if estimate:
            _print_estimate(workspace, access, asking, options, drawn)
            return
        if not _label_by_llm(workspace, access, asking, options, limits, drawn, again):
            return
    print_counts(workspace, table)
    _tell_what_is_left(workspace, table, options, sample)


def _label_by_llm(
    workspace: Workspace,
    access: LLMAccess,
    judge: LLMJudge | CascadeJudge,
    options: LabelOptions,
    limits: Thresholds,
    drawn: Sample | None,
    again: bool,
) -> bool:
    """Print the estimate, then label; return whether the table is finished.

    Args:
        workspace: holds `conversations`.
        access: what is needed to ask the language model.
        judge: asks the language model.
        options: the recipe's group `label`.
        limits: thresholds on the summed strengths.
        drawn: conversations to label, into a table of their own; None: all.
        again: ask once more for turns without a label.
    """
    from drift_data.judge.spur.estimate import sum_stored_prices
    from drift_data.judge.stage import label as label_turns
    from drift_data.labels.tables import name_label_table
    from drift_data.llm.batch.rounds import AwaitingResults, run_in_rounds
    from drift_data.llm.server import read_key
    from pipelines.judges import run_once

    @run_once
    def announce() -> None:
        # A missing key is an error before the estimate takes its time. A cascade may have nothing to ask, so its client
        # looks for the key only when there is a request.
        if options.judge == "openai":
            read_key(options.server)
        _print_estimate(workspace, access, judge, options, drawn)
        # The batch backend keeps to the budget by itself.
        if options.budget is not None and options.asks != "batch":
            access.spending.known_cached_price = sum_stored_prices(workspace, judge, access.store, drawn)

    sample = None if drawn is None else drawn.size
    table = name_label_table(options.table, sample)
    more = again or _has_new_budget(workspace, table, options) or _has_new_results(workspace, table, options)
    try:
        run_in_rounds(
            lambda: label_turns(
                workspace,
                judge,
                limits,
                options.table,
                sample=sample,
                again=more,
                announce=announce,
            )
        )
    except AwaitingResults as awaiting:
        tell(str(awaiting))
        return False
    return True


def _print_estimate(
    workspace: Workspace,
    access: LLMAccess,
    judge: AskingJudge,
    options: LabelOptions,
    sample: Sample | None,
) -> None:
    from drift_data.judge.spur.estimate import estimate_labelling
    from pipelines.judges import print_if_price_unknown

    expected = estimate_labelling(
        workspace,
        judge,
        access.store,
        access.counter,
        access.price,
        batch=options.asks == "batch",
        sample=sample,
    )
    print(f"estimate: {expected}")
    print_if_price_unknown(access, options)


def _has_new_budget(workspace: Workspace, table: str, options: LabelOptions) -> bool:
    """Say whether a budget has cut the table short, and another budget is given now."""
    manifest = workspace.manifest(table)
    if manifest is None or not manifest.dropped.get("over_budget"):
        return False
    return bool(manifest.made_by.get("price", {}).get("budget") != options.budget)


def _has_new_results(workspace: Workspace, table: str, options: LabelOptions) -> bool:
    """Say whether result files are given that may hold answers which the finished table lacks."""
    manifest = workspace.manifest(table) if options.asks == "batch" and options.batch.results else None
    return manifest is not None and any(manifest.dropped.get(reason) for reason in _RETRIABLE_REASONS)


def _tell_what_is_left(workspace: Workspace, table: str, options: LabelOptions, sample: int | None) -> None:
    """Print what the labels took, what those of all conversations would take, and how to go on."""
    manifest = workspace.require(table)
    price, requests = manifest.made_by.get("price"), manifest.made_by.get("requests")
    if price is None or requests is None:
        return
    total = price["now"] + price["before"]
    is_known = options.model in options.prices or total > 0
    money = f"price {price['now']:,.4f} now, {total:,.4f} in all"
    taken = f"{requests['sent']:,} requests sent, {requests['from_store']:,} answers were in the store"
    if options.asks == "vllm" and not is_known:  # vLLM costs this machine's time, and no money
        print(taken)
    else:
        print(f"{taken}; {money if is_known else f'price unknown (no label.prices for {options.model})'}")
    if sample is not None and total:
        conversations = workspace.require("conversations").rows_out
        whole = total * conversations / min(sample, conversations)
        print(f"all {conversations:,} conversations would cost about {whole:,.2f}, by this sample")
    if (count := sum(manifest.dropped.get(reason, 0) for reason in _RETRIABLE_REASONS)) > 0:
        instead = " instead of FINAL=1" if options.batch.final else ""
        tell(
            f"{count:,} turns got no answer. To ask for them once more: the same command with AGAIN=1{instead}."
        )
    if (count := manifest.dropped.get("over_budget", 0)) > 0:
        tell(
            f"The budget ends here: {count:,} turns are not labelled. To go on: the same command with a higher BUDGET=."
        )
