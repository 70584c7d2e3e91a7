"""The shell commands of the README, the tutorial and the guide are true.

Every command is read as Make and the command line read it: its variables, options and recipe keys must exist. Those
that need no key, GPU, Hub or person are also run, one after another in one small workspace, as a reader would run them.
What is not run stands in `NOT_RUN` with the reason.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from drift_data.schema import DSAT, NEUTRAL, SAT
from drift_data.workspace import Workspace
from pipelines.__main__ import app
from pipelines.recipe import load_recipe
from pipelines.reference_pages import read_make_targets
from tests.helpers.llm_server import LLMServer
from tests.helpers.paths import ROOT
from tests.helpers.random_policy import make_policy
from tests.helpers.scoring_model import scoring_answer

GUIDE = (
    "convert",
    "label",
    "calibrate",
    "review",
    "llm-judges",
    "rubric",
    "distill",
    "mine",
    "train",
    "rollouts",
)
PAGES = [
    "docs/tutorial.md",
    *(f"docs/guide/{name}.md" for name in (*GUIDE, "multi-gpu", "evaluate", "query", "publish")),
    "docs/results/distill.md",
    "README.md",
]
# Recipes that a page shows as a YAML block: name → page.
RECIPES = {"my.yaml": "docs/guide/label.md", "small.yaml": "docs/tutorial.md"}
# Pattern of commands that are read and not run → why.
NOT_RUN = {
    r"make (demo|test)\b": "they run by themselves, in CI",
    r"make review\b": "serves a page until Ctrl-C; tests/pipelines/test_review_browser.py drives it",
    r"GOLD=human:": "needs a person's labels",
    r"make publish\b": "needs the Hub",
    r"SOURCE=(wildchat|ultrafeedback)\b": "needs the data set",
    r"WORK=data/wildfeedback\b": "needs the data set",
    r"SOURCE=simulated\b": "2,000 simulated chats take half a minute",
    r"make distill\b|CLASSIFIER=": "a classifier takes minutes to train; tests/pipelines/test_distill.py trains one",
    r"JUDGE=batch +#": "needs OpenAI's Batch API",
    r"RESULTS=": "needs somebody's answers to the request files",
    r"make iter .*RECIPE=paper-7b|drift iter ": "a 7B model, a server or several GPUs; the tutorial's iteration is run",
    r"make report WORK=data/mine RECIPE=paper-7b": "needs the run of a 7B model; the tutorial's report is made",
    r"jupyter-execute": "tests/test_notebook.py executes the notebooks",
}
# Of the tutorial's commands: smaller sizes than a reader would take, and some test rows among few chats.
SMALLER = [
    "loop.rollout.max_new_tokens=16",
    "loop.rollout.max_prompt_tokens=700",
    "loop.rollout.recheck=2",
    "loop.health.replies=4",
    *(
        f"loop.{training}.{option}"
        for training in ("warm", "train")
        for option in ("max_length=768", "epochs=1", "global_batch=16", "per_device_batch=16", "threads=1")
    ),
]
SERVER = "http://localhost:8000/v1"  # as the pages call a server of the reader's


@dataclass(frozen=True)
class Command:
    """One command of a page, as it stands there without its comment."""

    page: str
    text: str
    comment: str = ""

    @property
    def why_not(self) -> str | None:
        """Return why it is not run; None: it is."""
        line = f"{self.text}  {self.comment}"
        return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, line)), None)

    @property
    def words(self) -> list[str]:
        """The words behind the variables of the environment that stand before the program."""
        words = shlex.split(self.text)
        start = next(place for place, word in enumerate(words) if "=" not in word)
        return words[start:]

    @property
    def variables(self) -> dict[str, str]:
        """The Make variables that it sets."""
        return dict(word.split("=", 1) for word in self.words[2:] if "=" in word)


def read_commands() -> list[Command]:
    """Return the commands of all pages, in order."""
    commands = []
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                bare, _, comment = line.partition(" #")
                if bare.strip() and not bare.startswith("#"):
                    commands.append(Command(page, bare.strip(), f"#{comment}" if comment else ""))
    return commands


COMMANDS = read_commands()
TARGETS = read_make_targets(ROOT / "Makefile")


@cache
def drift_arguments(command: Command) -> list[str] | None:
    """Return the arguments of `drift` that a command comes to; None: it calls something else."""
    words = command.words
    if words[0] == ".venv/bin/drift":
        return words[1:]
    if words[0] != "make" or words[1] not in TARGETS:
        return None
    # -o setup: as if the toolkit were set up; -n: say what would be run.
    shown = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", "setup", *words[1:]],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},  # not the variables of a make that runs the tests
        capture_output=True,
        text=True,
        check=True,
    )
    words_shown = shlex.split(shown.stdout.replace("\\\n", " "))
    start = words_shown.index(".venv/bin/python")  # behind variables of the environment
    assert words_shown[start + 1 : start + 3] == ["-m", "pipelines"]
    arguments = words_shown[start + 3 :]
    return [command.variables["SQL"] if word == "$SQL" else word for word in arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as a reader of the tutorial has it: logs, recipes, a small model, and a server that answers."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "drift_data").symlink_to(ROOT / "drift_data")
    for name, page in RECIPES.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        (folder / name).write_text("\n".join(block for block in blocks if "extends:" in block))
    write_logs(folder / "my-logs.jsonl")
    write_thumbs(folder / "thumbs.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OPENAI_API_KEY", "of-the-test")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder


def write_logs(path: Path) -> None:
    """Write chats in which users complain, are content, and say nothing about the reply."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(60):
            asked = {"role": "user", "content": f"Please list {number + 2} red fruits."}
            reply = {"role": "assistant", "content": f"apple pear {number}"}
            complaint = {
                "role": "user",
                "content": "That is wrong. I asked for red fruits, please try again!",
            }
            better = {"role": "assistant", "content": f"plum apple {number}"}
            thanks = {"role": "user", "content": "Thank you, that is perfect!"}
            neutral = {"role": "user", "content": "And what is the capital of France?"}
            rests = ([complaint, better, thanks], [neutral, better], [thanks], [complaint, better, neutral])
            chat = {"id": f"chat-{number}", "model": "m-1", "language": "English"}
            file.write(json.dumps({**chat, "messages": [asked, reply, *rests[number % 4]]}) + "\n")


def write_thumbs(path: Path) -> None:
    """Write chats with a thumb each."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(6):
            messages = [
                {"role": "user", "content": f"List {number + 2} fruits."},
                {"role": "assistant", "content": "apple pear"},
            ]
            file.write(json.dumps({"messages": messages, "thumb": ("up", "down")[number % 2]}) + "\n")


def fill_in_labels(path: Path) -> None:
    """Do what a person does with the file that `Q=to_label` writes."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["label"] = DSAT if "wrong" in row["message"] else SAT if "Thank" in row["message"] else NEUTRAL
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def answer(body: dict[str, Any], count: int) -> str:
    """Answer as a model does that knows three signs: scores, reasons for a thumb, or items of a rubric."""
    schema = body["response_format"]["json_schema"]
    if schema["name"] == "reasons":
        return json.dumps({"reasons": ["The user says how the reply was."]})
    if schema["name"] == "rubric":
        fields = schema["schema"]["properties"]["items"]["items"]["properties"]
        names = ["Factual_Error", "Revision"] if "asks_for_change" in fields else ["Gratitude"]
        item = {"definition": "The user says so.", "asks_for_change": False}
        items = [{field: {**item, "name": name}[field] for field in fields} for name in names]
        return json.dumps({"items": items})
    return scoring_answer(body)


def test_the_pages_show_commands() -> None:
    assert {command.page for command in COMMANDS} == set(PAGES)


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_a_reason_not_to_run_is_about_a_command(pattern: str) -> None:
    assert any(re.search(pattern, f"{command.text}  {command.comment}") for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text}")
def test_a_command_names_what_there_is(command: Command, folder: Path) -> None:
    words = command.words
    if words[0] == "make":
        known = set(TARGETS[words[1]].values()) if words[1] in TARGETS else set()
        assert set(command.variables) <= known
    arguments = drift_arguments(command)
    if arguments is None:
        assert words[0] == ".venv/bin/jupyter-execute" or words[1] in ("demo", "test")
        return
    name, *rest = arguments
    parsed = typer.main.get_command(app).commands[name].make_context(name, rest)  # type: ignore[attr-defined]
    if "recipe" in parsed.params:
        load_recipe(parsed.params["recipe"], parsed.params.get("overrides") or [])


@pytest.mark.slow
def test_the_commands_run_one_after_another(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    make_policy(folder / "path/to/your-model", context=1_024)
    with LLMServer(answer) as server:
        for command in COMMANDS:
            if command.why_not is not None:
                continue
            arguments = drift_arguments(command)
            assert arguments is not None, command
            name, *rest = (word.replace(SERVER, server.base_url) for word in arguments)
            app([name, *rest, *smaller_sizes(name, command, server.base_url)], standalone_mode=False)
            if "Q=to_label" in command.text:
                fill_in_labels(folder / command.variables["OUT"])
    printed = capsys.readouterr().out
    assert "precision" in printed and "report:" in printed
    workspace = Workspace(folder / "data/mine")
    for table in ("labels/local", "labels/openai", "labels/openai-sample", "dsat", "seed", "rubric/reasons"):
        assert workspace.require(table).rows_out > 0, table
    assert workspace.require("runs/small-drift/iter0/model").made_by["policy"]  # a warm start was trained
    assert (workspace.path("runs/small-drift/iter1/model") / "README.md").is_file()
    assert (workspace.path("runs/small-drift") / "report.html").is_file()
    assert (folder / "data/mine/release/dsat_data.jsonl").is_file()


def smaller_sizes(name: str, command: Command, base_url: str) -> list[str]:
    """Return further overrides: of what costs time here, and of where a model is asked."""
    overrides = {
        "seed": ["mine.test_fraction=0.3"],
        "iter": SMALLER,
        "eval": SMALLER,
        "report": SMALLER,
        "label": [f"label.server.base_url={base_url}"],
        "rubric": [f"label.server.base_url={base_url}"],
    }
    return [word for override in overrides.get(name, []) for word in ("--set", override)]
