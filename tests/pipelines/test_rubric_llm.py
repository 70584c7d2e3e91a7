"""`drift rubric` through request files: the estimate before anything is asked, and FINAL=1."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pipelines.__main__ as cli
from drift_data.workspace import Workspace
from tests.helpers.batch_server import completion, result

Run = Callable[..., tuple[int, str]]
CHATS = [
    {
        "id": f"{thumb}{number}",
        "messages": [
            {"role": "user", "content": f"Question {number}?"},
            {"role": "assistant", "content": "Answer."},
            {"role": "user", "content": f"That was {thumb}, number {number}."},
        ],
        "thumb": thumb,
    }
    for thumb in ("up", "down")
    for number in range(3)
]


@pytest.fixture
def rubric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the stage and returns its exit code and what it said."""
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def run(*arguments: object, judge: str = "batch") -> tuple[int, str]:
        given = ["--work", tmp_path / "work", "--input", chats, "--judge", judge, "--model", "test"]
        monkeypatch.setattr(sys, "argv", ["drift", "rubric", *map(str, [*given, *arguments])])
        code = cli.main()
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def asked(folder: Path, number: int) -> list[dict]:
    files = (folder / f"work/batch/round-{number:03d}").glob("requests-*.jsonl")
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def write(path: Path, answers: list[tuple[dict, dict]]) -> Path:
    lines = [result(row["custom_id"], completion(json.dumps(answer))) for row, answer in answers]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def items(row: dict, name: str) -> dict:
    """Return one item, with the fields that the schema of the request asks for."""
    schema = row["body"]["response_format"]["json_schema"]["schema"]
    item = {"name": name, "definition": "Says how it was.", "asks_for_change": False}
    wanted = schema["properties"]["items"]["items"]["properties"]
    return {"items": [{field: item[field] for field in wanted}]}


def test_final_goes_on_without_conversations_that_have_no_answer_and_still_asks_for_the_fold(
    rubric: Run, tmp_path: Path
) -> None:
    code, said = rubric("--offline")
    assert code == 0
    assert "estimate: 6 conversations to read, then at most 2 steps of the fold" in said
    assert said.index("estimate") < said.index("requests-")
    reason = {"reasons": ["The user says how it was."]}
    first = write(tmp_path / "first.jsonl", [(row, reason) for row in asked(tmp_path, 1)[1:]])
    code, said = rubric("--offline", "--results", first)
    assert code == 0 and "--final" in said  # the missing one is asked again
    assert len(asked(tmp_path, 2)) == 1
    code, said = rubric("--offline", "--results", first, "--final")
    assert code == 0 and "(5 more are answered already)" in said
    folds = asked(tmp_path, 3)
    assert [row["body"]["response_format"]["json_schema"]["name"] for row in folds] == ["rubric"] * 2
    answers = [(row, items(row, name)) for row, name in zip(folds, ("Thanks", "Complaint"), strict=True)]
    code, said = rubric("--offline", "--results", write(tmp_path / "second.jsonl", answers), "--final")
    assert code == 0, said
    assert "1 + 1 items" in said
    workspace = Workspace(tmp_path / "work")
    assert workspace.require("rubric/reasons").dropped == {"no_answer": 1}
    assert workspace.require("rubric/learned").results["items"] == 2


def test_a_missing_key_is_told_before_the_estimate(rubric: Run) -> None:
    code, said = rubric(judge="openai")
    assert code == 1 and "OPENAI_API_KEY" in said and "estimate" not in said
