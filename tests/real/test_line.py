"""Real conversations through the whole line: convert → label → seed → iter 1, with a tiny model.

The logs are not part of the project: without them at ../shared/data these tests say so and are skipped.
"""

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from drift_data.simulate.chats import iter_pretrain_chats
from drift_data.simulate.options import PretrainOptions
from drift_train.options import TinyOptions
from tests.helpers.real_chats import chats, needs_data
from tests.helpers.wildchat_schema import write_wildchat

pytestmark = [pytest.mark.real, needs_data]
SETTINGS = {
    "loop.rollout.engine": "transformers",
    "loop.rollout.max_new_tokens": 48,
    "loop.rollout.max_prompt_tokens": 1024,
    "loop.train.max_length": 1536,
    "loop.train.gradient_checkpointing": "false",
    "loop.train.per_device_batch": 4,
    "loop.train.global_batch": 4,  # the few pairs make several steps: the first of a warm-up has rate 0
}


def drift(work: Path, *arguments: str) -> str:
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    command = [
        sys.executable,
        "-m",
        "pipelines",
        *arguments,
        "--work",
        str(work),
        "--recipe",
        "paper-7b",
        *settings,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned to end its replies, and nothing about real chats."""
    from random import Random

    from drift_train.models.tiny import make_tiny

    folder = tmp_path_factory.mktemp("tiny")
    chats = iter_pretrain_chats(PretrainOptions(clean=2_000, noisy=0), [], Random(0))
    make_tiny(chats, folder, TinyOptions())
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    raw, work = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("work")
    known = [{k: v for k, v in chat.items() if v is not None and k != "timestamp"} for chat in chats()]
    write_wildchat(raw / "train-00000.parquet", known[:200])
    write_wildchat(raw / "train-00001.parquet", known[200:])
    drift(work, "convert", "--source", "wildchat", "--input", str(raw / "*.parquet"))
    drift(work, "label", "--judge", "local")
    drift(work, "seed")
    drift(work, "iter", "--n", "1", "--model", str(tiny), "--run", "real")
    return work


def count(folder: Path, where: str = "true") -> int:
    if not any(folder.glob("*.parquet")):
        return 0
    return int(duckdb.sql(f"select count(*) from '{folder}/*.parquet' where {where}").fetchall()[0][0])


def test_every_row_is_kept_or_dropped_with_a_reason_at_each_step(work: Path) -> None:
    raw = len(chats())
    turns = duckdb.sql(f"""
        select sum(len(list_filter(range(2, len(messages) + 1),
            lambda i: messages[i].role = 'user' and messages[i - 1].role = 'assistant')))
        from '{work}/conversations/*.parquet'
    """).fetchall()[0][0]
    dsat = count(work / "labels/local", "label = 'DSAT'")
    steps = {
        "conversations": raw,
        "labels/local": turns,
        "dsat": dsat,
        "sat": count(work / "labels/local", "label = 'SAT'"),
        "runs/real/iter1/rollouts": count(work / "dsat", "split = 'train'"),
        "runs/real/iter1/pairs": count(work / "runs/real/iter1/rollouts"),
    }
    assert dsat > 20
    for name, rows_in in steps.items():
        kept, dropped = count(work / name), count(work / "dropped" / name)
        manifest = json.loads((work / name / "manifest.json").read_text())
        assert kept + dropped == rows_in == manifest["rows_in"], name
        assert sum(manifest["dropped"].values()) == dropped, name


def test_nobodys_address_or_browser_is_kept(work: Path) -> None:
    columns = duckdb.sql(f"select * from '{work}/conversations/*.parquet' limit 0").columns
    assert not {"hashed_ip", "header", "openai_moderation", "detoxify_moderation"} & set(columns)


def test_the_rejected_reply_is_the_one_that_the_complaint_answers(work: Path) -> None:
    wrong = duckdb.sql(f"""
        select count(*) from '{work}/dsat/*.parquet' d join '{work}/conversations/*.parquet' c using (conversation_id)
        where d.rejected != [c.messages[d.turn]]          -- DuckDB counts from 1: index turn is the message before
           or d.feedback != c.messages[d.turn + 1].content
           or d.prompt != c.messages[1 : d.turn - 1]
    """).fetchall()
    assert wrong == [(0,)]


def test_the_trained_model_loads_with_plain_transformers_and_has_moved(work: Path, tiny: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = work / "runs/real/iter1/model"
    model, before = (AutoModelForCausalLM.from_pretrained(path) for path in (folder, tiny))
    moved = sum((a != b).sum().item() for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert moved > 0
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert not list(folder.glob("*.bin"))
