"""Labels by a real vLLM on the CPU, behind its own server and in the same process.

The model is random: what it says means nothing, but the schema holds it, and every turn is accounted for.
"""

import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from drift_data.judge.spur.answer import ScoringAnswer
from drift_data.query.query import run_query
from drift_data.workspace import Manifest, Workspace
from tests.helpers.known_model import write_known_model
from tests.helpers.label_runs import write_chats
from tests.helpers.random_policy import make_policy
from tests.helpers.vllm_server import free_url, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed here"),
]
CHATS = {
    f"c{n}": [f"Question {n}", "Answer", f"That is wrong, {n}", "Sorry", f"Thanks, {n}"][: 3 + 2 * (n % 2)]
    for n in range(6)
}
TURNS = sum(len(texts) // 2 for texts in CHATS.values())
CONTEXT = 16_000
COMPACT = '{"backend": "xgrammar", "disable_any_whitespace": true}'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("model") / "random", context=CONTEXT)


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own OpenAI-compatible server; yields its base URL."""
    url = free_url()
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", "random", "--host", "127.0.0.1", "--port", str(urlsplit(url).port)]
    command += ["--max-model-len", str(CONTEXT), "--dtype", "float32", "--enforce-eager"]
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(CONTEXT)]
    command += ["--structured-outputs-config", COMPACT]
    with serving(command, url, tmp_path_factory.mktemp("server") / "log"):
        yield url


def label(work: Path, *arguments: str) -> Manifest:
    """Convert, label by the command line, and return the label table's manifest."""
    work.mkdir()
    chats = write_chats(work / "chats.jsonl", CHATS)
    random_model = ("--set", "label.sampling.temperature=1.0", "--set", "label.sampling.max_tokens=300")
    for command in (
        ("convert", "--source", "chat", "--input", str(chats)),
        ("label", *arguments, *random_model, "--set", "label.score.tries=2"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *command, "--work", str(work / "work")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3_000:]
    return Workspace(work / "work").require(f"labels/{arguments[1]}")


def check(workspace: Workspace, manifest: Manifest) -> None:
    assert manifest.rows_in == TURNS == manifest.rows_out + sum(manifest.dropped.values())
    assert manifest.dropped.keys() <= {"invalid_answer"}
    answers = run_query(
        workspace, "SELECT answer, finish_reason, output_tokens, user FROM requests"
    ).to_pylist()
    assert len(answers) == manifest.made_by["requests"]["sent"] >= len(CHATS)
    whole = [row["answer"] for row in answers if row["finish_reason"] == "stop"]
    assert len(whole) >= len(CHATS) / 2
    for answer in whole:  # held by the schema: names, numbers and shape
        ScoringAnswer.model_validate_json(answer)
    assert all(row["output_tokens"] > 0 for row in answers)


def test_a_vllm_server_labels_end_to_end_and_every_whole_answer_follows_the_schema(
    server: str, tmp_path: Path
) -> None:
    manifest = label(tmp_path / "a", "--judge", "openai", "--model", "random", "--base-url", server)
    check(Workspace(tmp_path / "a" / "work"), manifest)
    assert manifest.made_by["judge"] == "openai:random"


def test_vllm_in_this_process_labels_end_to_end(model: Path, tmp_path: Path) -> None:
    limit = f"label.vllm.max_model_len={CONTEXT}"
    manifest = label(tmp_path / "a", "--judge", "vllm", "--model", str(model), "--set", limit)
    workspace = Workspace(tmp_path / "a" / "work")
    check(workspace, manifest)


def test_a_cascade_asks_vllm_in_this_process_about_the_uncertain_turns(model: Path, tmp_path: Path) -> None:
    known = write_known_model(tmp_path / "known.npz")  # "wrong" has a score of 8.5, thanks one of 0.1
    wide = (
        f"label.classifier={known}",
        "label.cascade.llm=vllm",
        "label.cascade.high=100",
        f"label.vllm.max_model_len={CONTEXT}",
    )
    sets = [part for option in wide for part in ("--set", option)]
    manifest = label(tmp_path / "a", "--judge", "cascade", "--model", str(model), *sets)
    rows = Workspace(tmp_path / "a" / "work").read("labels/cascade").to_pylist()
    thanks = len([texts for texts in CHATS.values() if len(texts) == 5])
    kinds = Counter(row["judge"].split(":")[0] for row in rows)
    assert kinds["local"] == thanks and manifest.rows_in == TURNS
    assert kinds["vllm"] + sum(manifest.dropped.values()) == TURNS - thanks
    assert manifest.made_by["requests"]["sent"] >= len(CHATS)
    assert +Counter(manifest.made_by["labelled"]) == Counter(row["judge"] for row in rows)
