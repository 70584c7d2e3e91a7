"""The command line: exit codes, one clear line for the user's mistakes, a log file for the tool's own."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pipelines.__main__ as cli
from drift_data.workspace import Workspace, read_tool_version
from tests.helpers.paths import ROOT
from tests.helpers.review_sample import to_review

STAGES = [
    "demo",
    "simulate",
    "convert",
    "rubric",
    "label",
    "review",
    "calibrate",
    "seed",
    "warm",
    "iter",
    "recipe",
    "eval",
    "report",
    "query",
    "export",
    "publish",
]
MICRO = Path(__file__).parent / "micro.yaml"


def drift(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines", *arguments], capture_output=True, text=True, check=False
    )


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """Run the command in this process; return its exit code and what it said on stderr."""
    monkeypatch.setattr(sys, "argv", ["drift", *arguments])
    return cli.main(), capsys.readouterr().err


def test_every_stage_is_there_and_explains_itself() -> None:
    listed = drift("--help")
    assert listed.returncode == 0
    assert not [stage for stage in STAGES if not re.search(rf"^│ {stage} ", listed.stdout, re.MULTILINE)]


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_is_printed_and_nothing_is_run(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, capsys, stage, "--help") == (0, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["label"], "Run `drift convert` first"),
        (["seed"], "Run `drift label` first"),
        (["seed", "--labels", "nobody"], "Run `drift convert` first"),
        (["review"], "Run `drift label` first"),
        (["review", "--labels", "local", "--filter", "hardest"], "--filter takes name=value"),
        (["warm", "--recipe", "paper-7b", "--model", "/no/such/model"], "/no/such/model"),
        (["recipe", "--recipe", "paper-7b", "--method", "ppo"], "loop.method"),
        (["convert", "--source", "telegram"], "telegram"),
        (["convert", "--source", "chat", "--input", "missing.jsonl"], "missing.jsonl"),
        (["convert", "--set", "clean.languages=5"], "clean.languages"),
        (["label", "--recipe", "nosuch"], "No recipe 'nosuch'"),
        (["query", "--sql", "select 1"], "There is no workspace"),
        (["iter", "--n", "0"], "greater than or equal to 1"),
        (["report"], "There is no workspace"),
        (["nonsense"], "No such command"),
        (["publish"], "--repo"),
    ],
)
def test_a_mistake_of_the_user_is_one_clear_message_and_exit_code_1(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = call(monkeypatch, capsys, *arguments)
    assert code == 1
    assert message in said
    assert "Traceback" not in said


def test_an_order_that_the_labels_cannot_have_is_told_before_the_page_is_served(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    work = str(to_review(tmp_path).root)
    code, said = call(monkeypatch, capsys, "review", "--work", work, "--filter", "order=disagreements")
    assert code == 1 and "Name their table with --against" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["review", "--labels", "tset"],
        ["review", "--labels", "test", "--against", "tset"],
        ["calibrate", "--labels", "tset", "--gold", "other"],
        ["calibrate", "--labels", "test", "--gold", "tset"],
        ["calibrate", "--labels", "test", "--against", "tset"],
        ["distill", "--labels", "tset"],
        ["seed", "--labels", "tset"],
        [
            "rubric",
            "--labels",
            "tset",
            "--judge",
            "openai",
            "--model",
            "x",
            "--base-url",
            "http://127.0.0.1:9",
        ],
    ],
)
def test_wrong_labels_are_answered_with_those_that_are_there(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, said = call(monkeypatch, capsys, *arguments, "--work", str(to_review(tmp_path).root))
    assert code == 1 and "tset" in said and ": other, test." in said


def test_a_fault_of_the_tool_is_exit_code_2_with_the_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(cli.tempfile, "gettempdir", lambda: str(tmp_path))

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Workspace, "require", broken)
    code, said = call(monkeypatch, capsys, "label", "--work", str(tmp_path))
    (log,) = tmp_path.glob("drift-*.log")
    assert code == 2
    assert str(log) in said
    assert "ZeroDivisionError: planted" in log.read_text()
    assert "Traceback" not in said


def test_a_full_disk_is_said_plainly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/data/part-00000.parquet")

    monkeypatch.setattr(Workspace, "require", full)
    code, said = call(monkeypatch, capsys, "label")
    assert (code, "the disk is full (/data/part-00000.parquet)" in said) == (1, True)


def test_ctrl_c_in_a_stage_is_exit_code_130_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Workspace, "require", interrupted)
    for arguments in (["label"], ["seed", "--labels", "local"], ["export", "--out", "nowhere"]):
        assert call(monkeypatch, capsys, *arguments) == (
            130,
            "stopped; run the same command again to go on\n",
        )


def test_ctrl_c_while_libraries_are_imported_is_one_line_too() -> None:
    interrupting = """
import runpy, sys
class Interrupt:
    @staticmethod
    def find_spec(name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt)
runpy.run_module("pipelines", run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", interrupting], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == "stopped; run the same command again to go on\n"
    assert done.returncode == -signal.SIGINT  # which a shell shows as 130


def test_the_command_line_and_labelling_start_without_libraries_that_only_other_stages_need() -> None:
    heavy = "sklearn", "scipy", "pandas", "torch", "transformers", "datasets", "vllm"
    code = f"import pipelines.__main__, pipelines.stages.label, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_and_version_load_no_library_of_a_stage() -> None:
    heavy = "pydantic", "pyarrow", "polars", "numpy", "duckdb", "openai", "torch"
    code = f"import pipelines.__main__, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_lists_the_stages_in_the_order_of_the_story_with_their_purpose() -> None:
    listed = re.findall(r"^│ ([a-z]+) +([A-Z].*?) *│$", drift("--help").stdout, re.MULTILINE)
    story = "simulate convert rubric label calibrate review distill seed warm iter eval report query export publish"
    assert [name for name, _ in listed] == [*story.split(), "recipe", "demo"]
    assert all(len(purpose.split()) >= 3 for _, purpose in listed)


def test_version_is_the_one_that_manifests_name() -> None:
    said = drift("--version")
    assert (said.returncode, said.stdout) == (0, f"drift {read_tool_version()}\n")


LINE = """
import json, sys
from pipelines.__main__ import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["drift", *arguments]
    if code := main():
        sys.exit(code)
"""  # one after the other in one process: the libraries are imported once


@pytest.mark.slow
def test_the_line_of_stages_needs_no_network_and_a_second_run_redoes_nothing(tmp_path: Path) -> None:
    """In a network namespace with nothing in it, not even loopback."""
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let `unshare -rn` make a network namespace")
    stages = (["convert"], ["label"], ["seed"], ["iter", "--n", "1"], ["eval", "--n", "1"], ["report"])
    commands = [[*stage, "--work", str(tmp_path), "--recipe", str(MICRO)] for stage in stages]

    def run_all() -> str:
        process = ["unshare", "-rn", sys.executable, "-c", LINE, json.dumps(commands)]
        done = subprocess.run(process, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stderr

    run_all()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    again = run_all()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before
    made = [line for line in again.splitlines() if "up to date" in line]
    assert len(made) > 8


def test_query_without_sql_lists_the_canned_queries_and_the_views(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["drift", "query", "--work", str(tmp_path)])
    assert cli.main() == 0
    said = capsys.readouterr().out
    assert "dsat_by_language" in said
    assert "dropped, funnel, manifests" in said


def test_help_of_rubric_names_the_judges_that_can_learn_one() -> None:
    helped = drift("rubric", "--help").stdout
    assert "vllm" in helped and "batch" in helped and not re.search("local|dataset|cascade", helped)


@pytest.mark.parametrize("sql", ['select "table" from dropped', "select 'a$'", "select `x`, '$(HOME)' -- \\"])
def test_sql_reaches_the_command_as_it_was_typed(sql: str) -> None:
    make = ["make", "--no-print-directory", "-o", "setup", "query", "DRIFT=printf '%s\\n'", f"SQL={sql}"]
    said = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["query", "--work", "data/work", "--sql", sql]


def test_examples_of_the_documentation_write_no_log_text_where_git_would_add_it() -> None:
    pages = "\n".join(
        page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))
    )
    outs = re.findall(r"^make .*\bOUT=(\S+)", pages, re.MULTILINE)
    assert len(outs) >= 3 and [out for out in outs if not out.startswith("data/")] == []


def test_a_hub_data_set_under_an_offline_recipe_names_the_way_out(tmp_path: Path) -> None:
    said = drift("convert", "--source", "chat", "--input", "owner/name", "--work", str(tmp_path / "work"))
    assert (said.returncode, "--set 'offline=false'" in said.stderr) == (1, True)
