"""The `drift` command: registers a command for each stage, and maps errors to exit codes.

Exit codes: 0 done, 1 the user's mistake (one line: what, where, how to mend it), 2 the tool's fault (the traceback
goes to a log file), 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

# Before any library reads them: no usage statistics, no pings, no warnings about forks.
os.environ.update(VLLM_NO_USAGE_STATS="1", DO_NOT_TRACK="1", HF_HUB_DISABLE_TELEMETRY="1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import typer

from pipelines import STOPPED
from pipelines.caller import in_words_of_caller, in_words_of_make, is_called_by_make
from pipelines.options import WORK
from pipelines.stages.calibrate import calibrate
from pipelines.stages.convert import convert
from pipelines.stages.demo import demo
from pipelines.stages.distill import distill
from pipelines.stages.eval import evaluate
from pipelines.stages.export import export
from pipelines.stages.iter import iterate
from pipelines.stages.label import label
from pipelines.stages.publish import publish
from pipelines.stages.query import query
from pipelines.stages.recipe import recipe
from pipelines.stages.report import report
from pipelines.stages.review import review
from pipelines.stages.rubric import rubric
from pipelines.stages.seed import seed
from pipelines.stages.simulate import simulate
from pipelines.stages.warm import warm

INTERRUPTED: Final = 130  # exit code after Ctrl-C, and what Typer returns for it

# Panel of `drift --help` → name of a command → the function that it calls, in the order of the story.
STORY: Final[dict[str, dict[str, Callable[..., None]]]] = {
    "Chat logs → labels": {
        "simulate": simulate,
        "convert": convert,
        "rubric": rubric,
        "label": label,
        "calibrate": calibrate,
        "review": review,
        "distill": distill,
    },
    "Labels → a better model": {"seed": seed, "warm": warm, "iter": iterate, "eval": evaluate},
    "Results": {"report": report, "query": query, "export": export, "publish": publish},
    "Settings, and the whole story": {"recipe": recipe, "demo": demo},
}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for panel, commands in STORY.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from drift_data.workspace import read_tool_version

        print(f"drift {read_tool_version()}")
        raise typer.Exit


@app.callback()
def drift(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """From raw chat logs to a better model: user dissatisfaction as preference data.

    The commands stand in the order of the story. Each is also a target of Make:
    `make label JUDGE=local` runs `drift label --judge local`.
    """


def main() -> int:
    """Run the command line and return its exit code."""
    try:
        # Typer turns Ctrl-C into a returned exit code; the commands themselves return None.
        if app(standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
    except (typer.Abort, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
        return INTERRUPTED
    except typer.TyperException as error:
        _show_usage_error(error)
        return 1
    except Exception as error:
        return _show_error(error)
    return 0


def _show_usage_error(error: Any) -> None:
    """Show an error of the command-line library, such as an unknown option, in the words that the caller typed."""
    show = getattr(error, "show", None)  # usage errors can show themselves, with the command's usage
    context = getattr(error, "ctx", None)
    if show is not None and not is_called_by_make():
        show()
    else:
        command = getattr(context, "info_name", None) or ""
        print(
            f"error: {in_words_of_make(str(getattr(error, 'format_message', error.__str__)()), command)}",
            file=sys.stderr,
        )


def _show_error(error: Exception) -> int:
    """Show the exception in flight; return the exit code."""
    from drift_data.workspace import UserError

    if isinstance(error, UserError):
        print(f"error: {in_words_of_caller(str(error))}", file=sys.stderr)
        return 1
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        full = error.filename or WORK
        print(f"error: the disk is full ({full}). Free some space and run again.", file=sys.stderr)
        return 1
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
