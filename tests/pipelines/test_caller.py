"""Messages name what the caller typed: Make's variables, or the options of the `drift` command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipelines.__main__ as cli
from pipelines.caller import CALLER_VARIABLE, OPTION_OF, SWITCHES, in_words_of_caller, in_words_of_make
from pipelines.reference_pages import read_make_targets

ROOT = Path(__file__).parents[2]
STAGES = {name for commands in cli.STORY.values() for name in commands}


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["drift", *arguments])
    code = cli.main()
    said = capsys.readouterr()
    return code, said.out + said.err


def test_variables_and_options_are_those_of_the_makefile() -> None:
    handed = {
        (variable, f"--{option}")
        for options in read_make_targets(ROOT / "Makefile").values()
        for option, variable in options.items()
    }
    assert set(OPTION_OF.items()) == handed
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"\$\(call flag,(\w+),", makefile)) == SWITCHES


def test_every_target_that_is_a_stage_has_a_module_with_its_command_and_the_reverse() -> None:
    modules = {path.stem for path in (ROOT / "pipelines" / "stages").glob("*.py")} - {"__init__"}
    listed = re.search(r"^\.PHONY: help setup (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed
    assert modules == STAGES == set(listed[1].split()) == set(read_make_targets(ROOT / "Makefile"))
    for commands in cli.STORY.values():
        for name, command in commands.items():
            assert command.__module__ == f"pipelines.stages.{name}"


@pytest.mark.parametrize(
    ("make", "option"),
    [
        ("Run `make convert` first.", "Run `drift convert` first."),
        ("`make iter N=1 METHOD=spin` makes one.", "`drift iter --n 1 --method spin` makes one."),
        ("JUDGE=openai needs MODEL=, e.g. MODEL=gpt-4o", "--judge openai needs --model, e.g. --model gpt-4o"),
        ("Give INPUT= (chats) or LABELS=.", "Give --input (chats) or --labels."),
        ("the same command with FINAL=1.", "the same command with --final."),
        ("AGAIN=1 instead of FINAL=1", "--again instead of --final"),
        ("OFFLINE=, RESULTS= and FINAL= are for", "--offline, --results and --final are for"),
        ("SET='offline=false'", "--set 'offline=false'"),
        ("Add SET=label.cascade.llm=batch.", "Add --set label.cascade.llm=batch."),
        ('FILTER="order=uncertain label=DSAT"', '--filter "order=uncertain label=DSAT"'),
        ("with RESULTS=<folder or glob>.", "with --results <folder or glob>."),
        ("Give SQL= or Q=, not both.", "Give --sql or --name, not both."),
        ("RUBRIC=/tmp/a.yaml, MODEL_OF= one of", "--rubric /tmp/a.yaml, --model-of one of"),
        # Neither options nor targets.
        ("HF_HUB_OFFLINE=1 and $MODEL=x", "HF_HUB_OFFLINE=1 and $MODEL=x"),
        ("/data/MODEL=x/y: 3 rows", "/data/MODEL=x/y: 3 rows"),
        ("to make sure, run make test", "to make sure, run make test"),
    ],
)
def test_a_message_names_variables_to_make_and_options_to_the_command(
    make: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CALLER_VARIABLE, raising=False)
    assert in_words_of_caller(make) == option
    monkeypatch.setenv(CALLER_VARIABLE, "make")
    assert in_words_of_caller(make) == make


def test_a_message_of_the_command_line_names_variables_to_make() -> None:
    assert in_words_of_make("Missing option '--out'.", "export") == "Missing option OUT=."
    assert (
        in_words_of_make("Option '--name' requires an argument.", "query")
        == "Option Q= requires an argument."
    )
    assert (
        in_words_of_make("Option '--name' requires an argument.", "label")
        == "Option NAME= requires an argument."
    )


@pytest.mark.parametrize(
    ("arguments", "make", "option"),
    [
        (["label"], "Run `make convert` first", "Run `drift convert` first"),
        (["publish"], "error: Missing option REPO=.", "Missing option '--repo'"),
        (["export"], "error: Missing option OUT=.", "Missing option '--out'"),
        (
            ["iter", "--n", "0"],
            "error: Invalid value for N=: Input should be",
            "Invalid value for '--n': Input should",
        ),
        (["label", "--judge", "local", "--offline"], "are for JUDGE=batch", "are for --judge batch"),
        (
            ["label", "--judge", "local", "--estimate"],
            "JUDGE=local asks no language model",
            "--judge local asks no language model",
        ),
        (["query"], "Canned queries (Q=name):", "Canned queries (--name name):"),
        (["convert", "--set", "seed"], "SET= takes key=value", "--set takes key=value"),
    ],
)
def test_a_stage_speaks_as_its_caller_does(
    arguments: list[str],
    make: str,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CALLER_VARIABLE, "make")
    typed_make = call(monkeypatch, capsys, *arguments)
    monkeypatch.delenv(CALLER_VARIABLE)
    typed_option = call(monkeypatch, capsys, *arguments)
    assert make in typed_make[1] and option in " ".join(typed_option[1].split())
    assert typed_make[0] == typed_option[0]
    assert "--" not in typed_make[1] and "Usage" not in typed_make[1]


def test_make_says_that_it_is_the_caller() -> None:
    make = ["make", "--no-print-directory", "-n", "-o", "setup", "label"]
    said = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.match(rf"{CALLER_VARIABLE}=make \S+ -m pipelines label ", said)
