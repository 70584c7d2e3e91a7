"""The `drift` command: one sub-command a stage, with the names of the Make targets.

Exit codes: 0 done, 1 the user's mistake (one line: what, where, how to mend it), 2 the tool's fault (the traceback
goes to a log file), 130 stopped by Ctrl-C. The heavy libraries are imported by the stage that needs them.
"""

import errno
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
from pipelines import STOPPED, data_commands
from pipelines.commands import WORK, RecipeName, Set, Work, opened
from pipelines.recipe import load_recipe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(data_commands.app)

INTERRUPTED = 130  # exit code after Ctrl-C, and what Typer returns for it

Run = Annotated[str | None, typer.Option(help="Name of the run; default: recipe-method.")]
Model = Annotated[str | None, typer.Option(help="Base model: folder, Hub id, or 'tiny'.")]


@app.command()
def demo(
    work: Work = Path("data/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the logs, the model and the training.")] = 0,
    overrides: Set = None,
) -> None:
    """Run the whole story on simulated logs with a tiny model: no key, no GPU, no network."""
    workspace, recipe = opened(work, "demo", overrides, seed=str(seed))
    from pipelines.stages import demo as stage

    stage.run(workspace, recipe)


@app.command()
def warm(
    work: Work = WORK,
    recipe: RecipeName = "demo",
    model: Model = None,
    run: Run = None,
    overrides: Set = None,
) -> None:
    """Train M0: DPO on the seed pairs."""
    workspace, loaded = opened(work, recipe, overrides, model=model)
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
    workspace, loaded = opened(work, recipe, overrides, **{"model": model, "loop.method": method})
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
    workspace, loaded = opened(work, recipe, overrides, model=model)
    from pipelines.stages import train

    train.evaluate(workspace, loaded, run, n)


@app.command()
def report(work: Work = WORK, recipe: RecipeName = "demo", run: Run = None, overrides: Set = None) -> None:
    """Write one self-contained HTML page of a run."""
    workspace, loaded = opened(work, recipe, overrides)
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
    workspace, _ = opened(work, recipe, overrides)
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
    workspace, loaded = opened(work, recipe, overrides, offline="false")
    from pipelines.stages import output

    output.publish(workspace, loaded, repo, run, model_of)


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        # Typer makes a returned exit code of Ctrl-C; what commands return is None.
        if app(standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (typer.Abort, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
        return INTERRUPTED
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
