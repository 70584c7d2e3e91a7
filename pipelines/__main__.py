"""The `drift` command: one sub-command a stage, with the names of the Make targets.

Exit codes: 0 done, 1 the user's mistake (one line: what, where, how to mend it), 2 the tool's fault (the traceback
goes to a log file). The heavy libraries are imported by the stage that needs them.
"""

import errno
import json
import os
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

# Before any library reads them: no usage statistics, no pings, no warnings about forks.
os.environ.update(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import typer

from drift_data.workspace import UserError, Workspace
from pipelines.recipe import Recipe, load_recipe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Work = Annotated[Path, typer.Option(help="Workspace folder.")]
RecipeName = Annotated[str, typer.Option(help="Name of a shipped recipe, or path of a YAML file.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override of a recipe option: dotted.key=value.")
]
Run = Annotated[str | None, typer.Option(help="Name of the run; default: recipe-method.")]
Model = Annotated[str | None, typer.Option(help="Base model: folder, Hub id, or 'tiny'.")]
Judge = Annotated[
    str | None, typer.Option(help="local, dataset, or one that asks a model: cascade, openai, vllm, batch.")
]
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

WORK = Path("data/work")


def _open(
    work: Path, recipe: str, overrides: list[str] | None, **named: str | None
) -> tuple[Workspace, Recipe]:
    """Return the workspace and the recipe; options with a flag of their own win over `--set`."""
    # Quoted, or a date would be no name and a number no model.
    given = [f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in named.items() if v is not None]
    loaded = load_recipe(recipe, [*(overrides or []), *given])
    if loaded.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    return Workspace(work), loaded


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
def demo(
    work: Work = Path("data/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the logs, the model and the training.")] = 0,
    overrides: Set = None,
) -> None:
    """Run the whole story on simulated logs with a tiny model: no key, no GPU, no network."""
    workspace, recipe = _open(work, "demo", overrides, seed=str(seed))
    from pipelines.stages import demo as stage

    stage.run(workspace, recipe)


@app.command()
def simulate(work: Work = WORK, recipe: RecipeName = "demo", overrides: Set = None) -> None:
    """Make chat logs of simulated users, their true satisfaction, and held-out prompts."""
    workspace, loaded = _open(work, recipe, overrides)
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
    workspace, loaded = _open(work, recipe, overrides, source=source)
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
    judge: Judge = None,
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
    workspace, loaded = _open(work, recipe, overrides, **_asking(judge, model, base_url, budget))
    from pipelines.stages import rubric as stage

    stage.rubric(workspace, _by_files(loaded, offline, results, final), inputs or [], labels)


@app.command()
def label(
    judge: Judge = None,
    model: LLM = None,
    base_url: BaseUrl = None,
    name: Annotated[str | None, typer.Option(help="Of the label table; default: the judge's kind.")] = None,
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
    workspace, loaded = _open(work, recipe, overrides, **named, **{"label.classifier": classifier})
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
    workspace, loaded = _open(work, recipe, overrides, **used)
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
    workspace, loaded = _open(work, recipe, overrides)
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
    workspace, loaded = _open(work, recipe, overrides, **used)
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
    workspace, loaded = _open(work, recipe, overrides)
    from pipelines.stages import data

    data.seed(workspace, loaded, labels)


@app.command()
def warm(
    work: Work = WORK,
    recipe: RecipeName = "demo",
    model: Model = None,
    run: Run = None,
    overrides: Set = None,
) -> None:
    """Train M0: DPO on the seed pairs."""
    workspace, loaded = _open(work, recipe, overrides, model=model)
    from pipelines.stages import train

    train.warm(workspace, loaded, run)


@app.command("iter")
def iterate(
    n: Annotated[
        int, typer.Option(help="Iteration, from 1; missing earlier ones are made first.", min=1)
    ] = 1,
    method: Annotated[str | None, typer.Option(help="How pairs are built: drift, spin or iterdpo.")] = None,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    model: Model = None,
    run: Run = None,
    overrides: Set = None,
) -> None:
    """Train M_n: rollouts of M_(n-1), pairs, DPO."""
    workspace, loaded = _open(work, recipe, overrides, **{"model": model, "loop.method": method})
    from pipelines.stages import train

    train.iterate(workspace, loaded, run, n)


@app.command("recipe")
def show_recipe(
    method: Annotated[str | None, typer.Option(help="How pairs are built: drift, spin, iterdpo.")] = None,
    recipe: RecipeName = "demo",
    overrides: Set = None,
) -> None:
    """Show what a recipe resolves to, beside the paper and the release; nothing is run."""
    loaded = load_recipe(recipe, [*(overrides or []), *([f"loop.method={method}"] if method else [])])
    from rich.console import Console

    from pipelines.stages import recipe as stage

    stage.show(loaded, Console())


@app.command("eval")
def evaluate(
    n: Annotated[int, typer.Option(help="Last iteration to measure.", min=0)] = 1,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    model: Model = None,
    run: Run = None,
    overrides: Set = None,
) -> None:
    """Measure the base model and every iterate up to M_n."""
    workspace, loaded = _open(work, recipe, overrides, model=model)
    from pipelines.stages import train

    train.evaluate(workspace, loaded, run, n)


@app.command()
def report(work: Work = WORK, recipe: RecipeName = "demo", run: Run = None, overrides: Set = None) -> None:
    """Write one self-contained HTML page of a run."""
    workspace, loaded = _open(work, recipe, overrides)
    from pipelines.stages import output

    output.report(workspace, loaded, run)


@app.command()
def query(
    sql: Annotated[str | None, typer.Option(help="SQL over the workspace's views.")] = None,
    name: Annotated[
        str | None, typer.Option(help="A canned query; without SQL and name they are listed.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the result: .csv, .parquet or .json.")] = None,
    work: Work = WORK,
) -> None:
    """Run DuckDB over the workspace: one view a table."""
    from pipelines.stages import output

    output.query(Workspace(work), sql, name, out)


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    work: Work = WORK,
    recipe: RecipeName = "demo",
    overrides: Set = None,
) -> None:
    """Write dsat, sat and seed in the JSONL layout of the DRIFT release."""
    workspace, _ = _open(work, recipe, overrides)
    from pipelines.stages import output

    output.export(workspace, out)


@app.command()
def publish(
    repo: Annotated[str, typer.Option(help="owner/name on the Hub.")],
    model_of: Annotated[
        str | None, typer.Option(help="Instead of the data: a model of the run, e.g. iter2.")
    ] = None,
    work: Work = WORK,
    recipe: RecipeName = "demo",
    run: Run = None,
    overrides: Set = None,
) -> None:
    """Upload dsat, sat, seed (and a run's pairs), or a trained model, with a card in one commit.

    The token is read from HF_TOKEN.
    """
    workspace, loaded = _open(work, recipe, overrides, offline="false")
    from pipelines.stages import output

    output.publish(workspace, loaded, repo, run, model_of)


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        app(standalone_mode=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (typer.Abort, KeyboardInterrupt):
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except typer.TyperException as error:
        show = getattr(error, "show", None)  # usage errors know how to show themselves
        show() if show else print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _own_fault()
        print(
            f"error: the disk is full ({error.filename or WORK}). Free some space and run again.",
            file=sys.stderr,
        )
        return 1
    except Exception:
        return _own_fault()
    return 0


def _own_fault() -> int:
    """Write the traceback of the exception in flight to a file, name the file, return the exit code."""
    log = Path(tempfile.gettempdir()) / f"drift-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    log.write_text(traceback.format_exc())
    print(
        f"error: the tool failed: {traceback.format_exc(limit=0).strip().splitlines()[-1]}\n"
        f"error: this is not your mistake; please report it with {log}",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    sys.exit(main())
