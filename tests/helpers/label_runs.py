"""Labelling by the command line: logs, answers, and what a stage made of them."""

import json
import sys
from pathlib import Path

import pytest

import pipelines.__main__ as cli
from drift_data.workspace import Workspace
from tests.helpers.llm_server import LLMServer
from tests.helpers.scoring_model import scoring_answer

PRICES = "label.prices={test: {input: 1, output: 10}}"


def write_chats(path: Path, chats: dict[str, list[str]]) -> Path:
    with path.open("w") as file:
        for name, texts in chats.items():
            messages = [
                {"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)
            ]
            file.write(json.dumps({"id": name, "messages": messages}) + "\n")
    return path


class Drift:
    """The command line on one workspace, in this process."""

    def __init__(
        self, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.work, self.workspace = work, Workspace(work)
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, stage: str, *arguments: object) -> tuple[int, str]:
        """Run a stage; return its exit code and all it said."""
        self._monkeypatch.setattr(
            sys, "argv", ["drift", stage, *map(str, arguments), "--work", str(self.work)]
        )
        code = cli.main()
        said = self._capsys.readouterr()
        return code, said.out + said.err

    def label(self, server: LLMServer, *arguments: object, judge: str = "openai") -> tuple[int, str]:
        where = ("--judge", judge, "--model", "test", "--base-url", server.base_url)
        return self("label", *where, "--set", PRICES, *arguments)

    def labels(self, name: str = "openai") -> dict[tuple[str, int], str]:
        rows = self.workspace.read(f"labels/{name}").to_pylist()
        return {(row["conversation_id"].removeprefix("chat:"), row["turn"]): row["label"] for row in rows}


def write_results(path: Path, lines: list[dict]) -> Path:
    with path.open("w") as file:
        for line in lines:
            message = {"role": "assistant", "content": scoring_answer(line["body"])}
            body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            response = {"status_code": 200, "body": body}
            file.write(
                json.dumps({"custom_id": line["custom_id"], "response": response, "error": None}) + "\n"
            )
    return path
