"""Puts messages into the words that the caller typed: variables of Make, or options of the `drift` command.

Every message in the code names options as Make does, such as `make label JUDGE=openai`. Whoever typed
`drift label --judge openai` reads commands and options instead. Only this module translates.
"""

import os
import re
import sys
from pathlib import Path
from typing import Final

CALLER_VARIABLE: Final = "DRIFT_CALLER"  # of the environment; the Makefile sets it to "make"

# Variable of the Makefile → option of the command.
OPTION_OF: Final = {
    "AGAIN": "--again",
    "AGAINST": "--against",
    "BASE_URL": "--base-url",
    "BLIND": "--blind",
    "BUDGET": "--budget",
    "CLASSIFIER": "--classifier",
    "ESTIMATE": "--estimate",
    "FILTER": "--filter",
    "FINAL": "--final",
    "GOLD": "--gold",
    "INPUT": "--input",
    "JUDGE": "--judge",
    "LABELS": "--labels",
    "METHOD": "--method",
    "MODEL": "--model",
    "MODEL_OF": "--model-of",
    "N": "--n",
    "NAME": "--name",
    "OFFLINE": "--offline",
    "OPTIONS": "--options",
    "OUT": "--out",
    "PORT": "--port",
    "Q": "--name",  # of `make query`
    "RECIPE": "--recipe",
    "REPO": "--repo",
    "RESULTS": "--results",
    "REVIEWER": "--reviewer",
    "RUBRIC": "--rubric",
    "RUN": "--run",
    "SAMPLE": "--sample",
    "SEED": "--seed",
    "SET": "--set",
    "SOURCE": "--source",
    "SQL": "--sql",
    "THRESHOLDS": "--thresholds",
    "WORK": "--work",
}
# Variables that Make sets to 1; their option of the command takes no value.
SWITCHES: Final = frozenset({"AGAIN", "BLIND", "ESTIMATE", "FINAL", "OFFLINE", "OPTIONS"})

_TARGETS = frozenset(path.stem for path in (Path(__file__).parent / "stages").glob("[a-z]*.py"))
_MAKE = re.compile(r"\bmake (\w+)\b")
# A variable that a message names, as in `MODEL=`, `MODEL=gpt-4o` and `FINAL=1`: not a part of another word or of a path.
# The second group is "" where no value follows the sign, and None where a value does.
_ASSIGNED = re.compile(
    rf"(?<![\w/$.-])({'|'.join(sorted(OPTION_OF, key=len, reverse=True))})=(?:($|(?=[\s,;:)]|\.(?:\s|$))))?"
)
_SWITCHED = re.compile(rf"(?<![\w/$.-])({'|'.join(sorted(SWITCHES))})=1?(?![\w/])")
_OPTION = re.compile(r"'?(--[a-z][a-z-]*)'?")


def is_called_by_make() -> bool:
    """Say whether a person typed `make label`, and not `drift label`."""
    return os.environ.get(CALLER_VARIABLE) == "make"


def in_words_of_caller(text: str) -> str:
    """Return a message of the toolkit, which names options as Make does, in the words that the caller typed."""
    if is_called_by_make():
        return text
    text = _MAKE.sub(lambda found: f"drift {found[1]}" if found[1] in _TARGETS else found[0], text)
    text = _SWITCHED.sub(lambda found: OPTION_OF[found[1]], text)
    return _ASSIGNED.sub(lambda found: OPTION_OF[found[1]] + (" " if found[2] is None else ""), text)


def in_words_of_make(text: str, command: str) -> str:
    """Return a message of the command-line library, which names options, with the variables of a Make target."""
    variables = {option: variable for variable, option in OPTION_OF.items() if variable != "Q"}
    if command == "query":
        variables["--name"] = "Q"
    return _OPTION.sub(lambda found: f"{variables[found[1]]}=" if found[1] in variables else found[0], text)


def tell(text: str, *, as_error: bool = False) -> None:
    """Print a message in the words that the caller typed.

    Args:
        text: the message, with options named as in Make.
        as_error: print to stderr.
    """
    print(in_words_of_caller(text), file=sys.stderr if as_error else sys.stdout)
