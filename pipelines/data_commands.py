"""Commands of the data: from logs to labels, classifiers and mined examples. Each reads options and calls its stage."""

from pathlib import Path
from typing import Annotated

import typer

from drift_data.workspace import UserError
from pipelines.commands import WORK, RecipeName, Set, Work, opened
from pipelines.recipe import Recipe

app = typer.Typer()

Judge = Annotated[
    str | None, typer.Option(help="local, dataset, or one that asks a model: cascade, openai, vllm, batch.")
]
Asked = Annotated[str | None, typer.Option(help="The kind that asks a model: openai, vllm, batch.")]
LLM = Annotated[
    str | None, typer.Option("--model", help="Model to ask: its name on the server, or for vllm a folder.")
]
BaseUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible server; default: OpenAI.")]
Budget = Annotated[str | None, typer.Option(help="Most that may be spent, in the currency of label.prices.")]
Offline = Annotated[bool, typer.Option("--offline", help="JUDGE=batch: only write the request files.")]
Results = Annotated[
    list[str] | None, typer.Option(help="JUDGE=batch: files, folders or globs of what came back.")
]
Final = Annotated[
    bool, typer.Option("--final", help="JUDGE=batch: ask no more for what has no answer, go on without.")
]


def _asking(
    judge: str | None, model: str | None, base_url: str | None, budget: str | None
) -> dict[str, str | None]:
    """Return the options of whoever asks a language model, as overrides of the recipe."""
    return {
        "label.judge": judge,
        "label.model": model,
        "label.server.base_url": base_url,
        "label.budget": budget,
    }


def _by_files(recipe: Recipe, offline: bool, results: list[str] | None, final: bool) -> Recipe:
    """Return the recipe with what this call says about request and result files."""
    if not (offline or results or final):
        return recipe
    if recipe.label.asks != "batch":
        way_out = ""
        if recipe.label.judge == "cascade":
            way_out = f" with label.cascade.llm={recipe.label.asks}. Add SET=label.cascade.llm=batch"
        raise UserError(f"OFFLINE, RESULTS and FINAL are for JUDGE=batch, not {recipe.label.judge}{way_out}.")
    files = {"offline": offline, "results": tuple(results or ()), "final": final}
    label = recipe.label.model_copy(update={"batch": recipe.label.batch.model_copy(update=files)})
    return recipe.model_copy(update={"label": label})


@app.command()
def simulate(work: Work = WORK, recipe: RecipeName = "demo", overrides: Set = None) -> None:
    """Make chat logs of simulated users, their true satisfaction, and held-out prompts."""
    workspace, loaded = opened(work, recipe, overrides)
    from pipelines.stages import data

    data.simulate(workspace, loaded)


@app.command()
def convert(
    source: Annotated[str | None, typer.Option(help="Kind of data set; default: the recipe's.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="File, folder, glob or Hub id.")] = None,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    overrides: Set = None,
) -> None:
    """Turn raw logs into `conversations` (and the labels or pairs the data set carries)."""
    workspace, loaded = opened(work, recipe, overrides, source=source)
    from pipelines.stages import data

    data.convert(workspace, loaded, inputs or [])


@app.command()
def rubric(
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="JSON Lines of chats with a thumb each.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Instead of --input: labels of this workspace as thumbs.")
    ] = None,
    judge: Asked = None,
    model: LLM = None,
    base_url: BaseUrl = None,
    budget: Budget = None,
    offline: Offline = False,
    results: Results = None,
    final: Final = False,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    overrides: Set = None,
) -> None:
    """Learn a rubric from thumb-labelled conversations (SPUR, phases 1 and 2)."""
    workspace, loaded = opened(work, recipe, overrides, **_asking(judge, model, base_url, budget))
    from pipelines.stages import rubric as stage

    stage.rubric(workspace, _by_files(loaded, offline, results, final), inputs or [], labels)


@app.command()
def label(
    judge: Judge = None,
    model: LLM = None,
    base_url: BaseUrl = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the label table; default: the judge's kind, local-NAME with --classifier."),
    ] = None,
    rubric: Annotated[Path | None, typer.Option(help="YAML file; default: the shipped 9 + 9 items.")] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="thresholds.yaml that calibrate has written.")
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(help="JUDGE=local: model.npz or name of a distilled one; default: the shipped one."),
    ] = None,
    budget: Budget = None,
    sample: Annotated[
        int | None, typer.Option(help="Label that many conversations only, and extrapolate.", min=1)
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say what it would take; ask nothing.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Ask once more for turns without a label.")] = False,
    offline: Offline = False,
    results: Results = None,
    final: Final = False,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    overrides: Set = None,
) -> None:
    """Label every feedback turn SAT, DSAT or NEUTRAL."""
    named = _asking(judge, model, base_url, budget)
    named |= {"label.name": name, "label.rubric": None if rubric is None else str(rubric)}
    workspace, loaded = opened(work, recipe, overrides, **named, **{"label.classifier": classifier})
    if classifier is not None and loaded.label.judge not in ("local", "cascade"):
        raise UserError(f"CLASSIFIER is for JUDGE=local, not {loaded.label.judge}.")
    from pipelines.stages import label as stage

    loaded = _by_files(loaded, offline, results, final)
    stage.label(workspace, loaded, thresholds=thresholds, sample=sample, estimate_only=estimate, again=again)


@app.command()
def calibrate(
    gold: Annotated[
        str | None, typer.Option(help="Labelled turns: .csv, .jsonl or .parquet, or a label table.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Instead of --gold: another judge's labels; reports agreement.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Judge to measure; default: the last made.")] = None,
    rubric: Annotated[Path | None, typer.Option(help="The one it used; default: the recipe's.")] = None,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    overrides: Set = None,
) -> None:
    """Choose the thresholds of a judge on labelled turns, and report how good its labels are."""
    used = {} if rubric is None else {"label.rubric": str(rubric)}
    workspace, loaded = opened(work, recipe, overrides, **used)
    from pipelines.stages import quality

    quality.calibrate(workspace, loaded, gold, labels, against)


@app.command()
def distill(
    labels: Annotated[str | None, typer.Option(help="Labels to learn from, such as openai-sample.")] = None,
    gold: Annotated[
        str | None,
        typer.Option(
            help="Labelled turns: to learn from, or beside --labels to measure the cascade against."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the classifier; default: the labels' name.")] = None,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    overrides: Set = None,
) -> None:
    """Train a local judge from the labels of a language model, and report what that costs and saves."""
    workspace, loaded = opened(work, recipe, overrides)
    from pipelines.stages import distill as stage

    stage.distill(workspace, loaded, labels, gold, name)


@app.command()
def review(
    labels: Annotated[str | None, typer.Option(help="Labels to review; default: the last made.")] = None,
    reviewer: Annotated[
        str | None,
        typer.Option(help="Whose labels they become: labels/human-NAME; default: the login's name."),
    ] = None,
    against: Annotated[str | None, typer.Option(help="Other labels, to begin where the two differ.")] = None,
    blind: Annotated[
        bool, typer.Option("--blind", help="Hide what the judge says until it is decided.")
    ] = False,
    chosen: Annotated[
        str, typer.Option("--filter", help='What is shown first, e.g. "order=uncertain language=English".')
    ] = "",
    port: Annotated[int | None, typer.Option(help="Of 127.0.0.1; 0: any free one.", min=0, max=65535)] = None,
    rubric: Annotated[
        Path | None, typer.Option(help="The one the judge used; default: the recipe's.")
    ] = None,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    overrides: Set = None,
) -> None:
    """Read judged turns in the browser, and accept or change their labels."""
    used = {} if rubric is None else {"label.rubric": str(rubric)}
    workspace, loaded = opened(work, recipe, overrides, **used)
    from pipelines.stages import review as stage

    stage.review(workspace, loaded, labels, reviewer, against, blind=blind, chosen=chosen, port=port)


@app.command()
def seed(
    labels: Annotated[
        str | None, typer.Option(help="Judge whose labels to mine; default: the last made.")
    ] = None,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    overrides: Set = None,
) -> None:
    """Mine DSAT examples, SAT examples and DSAT→SAT seed pairs from the labels."""
    workspace, loaded = opened(work, recipe, overrides)
    from pipelines.stages import data

    data.seed(workspace, loaded, labels)
