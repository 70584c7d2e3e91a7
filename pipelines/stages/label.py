"""The label stage: says what it will take, then labels with the recipe's judge."""

from pathlib import Path

from drift_data.calibrate.thresholds import read_thresholds
from drift_data.judge.options import LabelOptions
from drift_data.judge.spur.estimate import Asker, estimate, paid_before
from drift_data.judge.stage import label as label_turns
from drift_data.labels.sample import Sample, choose_sample
from drift_data.labels.tables import label_table
from drift_data.llm.batch.rounds import AwaitingResults, in_rounds
from drift_data.workspace import Workspace
from pipelines.recipe import Recipe
from pipelines.stages.data import say
from pipelines.stages.judges import Asking, asking, embedded_judge, llm_judge, once, say_if_unknown

# Reasons of turns without a label that may go away when they are asked for again.
_PASSING = ("request_failed", "no_answer")


def label(
    workspace: Workspace,
    recipe: Recipe,
    *,
    thresholds: Path | None = None,
    sample: int | None = None,
    estimate_only: bool = False,
    again: bool = False,
) -> None:
    """Label every feedback turn, or those of `sample` conversations.

    Args:
        workspace: holds `conversations`.
        recipe: names the judge.
        thresholds: file that `calibrate` has written, instead of the recipe's.
        sample: label that many conversations, into a table of their own.
        estimate_only: say what it would take, and ask nothing.
        again: ask for turns without a label once more.
    """
    options = recipe.label
    limits = options.thresholds if thresholds is None else read_thresholds(thresholds)
    table = label_table(options.table, sample)
    drawn = None if sample is None else choose_sample(workspace, table, sample)
    if options.asks is None:
        if estimate_only:
            print(f"JUDGE={options.judge} asks nobody: it costs nothing.")
            return
        judge = embedded_judge(workspace, options)
        label_turns(workspace, judge, limits, options.table, sample=sample, again=again)
        say(workspace, table)
        return
    with asking(workspace, options, options.asks) as asked:
        llm = llm_judge(workspace, asked, options)
        if estimate_only:
            _announce(workspace, asked, llm, options, drawn)
            return

        @once
        def announce() -> None:
            # Raises where it is missing, before the estimate takes its time. A cascade may have nothing to ask: its
            # client looks for the key when it has.
            if options.judge == "openai":
                options.server.key()
            _announce(workspace, asked, llm, options, drawn)
            if options.budget is not None and options.asks != "batch":  # which sees to that itself
                asked.meter.foreseen = paid_before(workspace, llm, asked.store, drawn)

        more = again or _budget_has_changed(workspace, table, options) or _has_news(workspace, table, options)
        try:
            in_rounds(
                lambda: label_turns(
                    workspace,
                    llm,
                    limits,
                    options.table,
                    sample=sample,
                    again=more,
                    announce=announce,
                )
            )
        except AwaitingResults as awaiting:
            print(awaiting)
            return
    say(workspace, table)
    _say_what_is_left(workspace, table, options, sample)


def _announce(
    workspace: Workspace, asked: Asking, judge: Asker, options: LabelOptions, sample: Sample | None
) -> None:
    """Print the estimate."""
    expected = estimate(
        workspace,
        judge,
        asked.store,
        asked.counter,
        asked.price,
        batch=options.asks == "batch",
        sample=sample,
    )
    print(f"estimate: {expected}")
    say_if_unknown(asked, options)


def _budget_has_changed(workspace: Workspace, table: str, options: LabelOptions) -> bool:
    """Say whether a table that a budget has cut off may now become longer."""
    manifest = workspace.manifest(table)
    if manifest is None or not manifest.dropped.get("over_budget"):
        return False
    return bool(manifest.made_by.get("price", {}).get("budget") != options.budget)


def _has_news(workspace: Workspace, table: str, options: LabelOptions) -> bool:
    """Say whether results were given that may hold answers to what a finished table lacks."""
    manifest = workspace.manifest(table) if options.asks == "batch" and options.batch.results else None
    return manifest is not None and any(manifest.dropped.get(reason) for reason in _PASSING)


def _say_what_is_left(workspace: Workspace, table: str, options: LabelOptions, sample: int | None) -> None:
    """Print what it took, what all conversations would take, and how to go on."""
    manifest = workspace.require(table)
    price, requests = manifest.made_by.get("price"), manifest.made_by.get("requests")
    if price is None or requests is None:
        return
    total = price["now"] + price["before"]
    known = options.model in options.prices or total > 0
    money = f"price {price['now']:,.4f} now, {total:,.4f} in all"
    said = f"{requests['sent']:,} requests sent, {requests['from_store']:,} answers were in the store"
    if options.asks == "vllm" and not known:  # which costs this machine's time
        print(said)
    else:
        print(f"{said}; {money if known else f'price unknown (no label.prices for {options.model})'}")
    if sample is not None and total:
        conversations = workspace.require("conversations").rows_out
        whole = total * conversations / min(sample, conversations)
        print(f"all {conversations:,} conversations would cost about {whole:,.2f}, by this sample")
    if (count := sum(manifest.dropped.get(reason, 0) for reason in _PASSING)) > 0:
        instead = " instead of FINAL=1" if options.batch.final else ""
        print(
            f"{count:,} turns got no answer. To ask for them once more: the same command with AGAIN=1{instead}."
        )
    if (count := manifest.dropped.get("over_budget", 0)) > 0:
        print(f"BUDGET ends here: {count:,} turns are not labelled. To go on: the same command with more.")
