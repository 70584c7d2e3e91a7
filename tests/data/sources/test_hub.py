"""A Hub id as INPUT, read over HTTP from a loopback Hub as a stream."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drift_data.sources.inputs import find_hub_files
from drift_data.workspace import Workspace
from tests.helpers.converted import accounts, reasons, rows
from tests.helpers.hub_server import TOKEN, HubServer, hub_server
from tests.helpers.wildchat_schema import chat, write_wildchat

pytestmark = pytest.mark.slow  # each test starts a process or a server

REPO = "someone/logs"
CONFIGS = """---
configs:
- config_name: sat_dsat_annotation
  data_files: sat_dsat_annotation.json
- config_name: wildfeedback
  data_files: wildfeedback.json
---
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with hub_server() as server:
        yield server


def convert_from(
    hub: HubServer, work: Path, source: str, name: str = REPO, token: str | None = TOKEN, **more: str
) -> subprocess.CompletedProcess[str]:
    """Convert in a process of its own: the Hub's address is read when its client is imported."""
    script = (
        "import sys\n"
        "from drift_data.convert.options import CleanOptions\n"
        "from drift_data.convert.stage import convert\n"
        "from drift_data.workspace import UserError, Workspace\n"
        "try: print(convert(Workspace(sys.argv[1]), sys.argv[2], [sys.argv[3]], CleanOptions()))\n"
        "except UserError as error: sys.exit(f'UserError: {error}')\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(work.parent / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        **({"HF_TOKEN": token} if token else {}),
        **more,
    }
    command = [sys.executable, "-c", script, str(work), source, name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_wildchat_on_the_hub_is_converted_and_up_to_date_until_a_new_commit(
    tmp_path: Path, hub: HubServer
) -> None:
    chats = [chat(f"q{i}", "a", conversation_hash=f"h{i}") for i in range(20)] + [chat("unanswered")]
    first = write_wildchat(tmp_path / "1.parquet", chats[:10], row_group_size=5).read_bytes()
    second = write_wildchat(tmp_path / "2.parquet", chats[10:], row_group_size=5).read_bytes()
    repo = hub.create(REPO)
    names = ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet")
    commit = repo.commit("logs", dict(zip(names, (first, second), strict=True)))

    done = convert_from(hub, tmp_path / "work", "wildchat")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    workspace = Workspace(tmp_path / "work")
    assert [row["conversation_id"] for row in rows(workspace)] == [f"h{i}" for i in range(20)]
    assert reasons(workspace) == {"data/train-00001-of-00002.parquet:10": "no_reply"}
    assert accounts(workspace, 21)
    assert workspace.require("conversations").files == dict.fromkeys(names, f"{REPO}@{commit.oid}")

    assert convert_from(hub, tmp_path / "work", "wildchat").stdout == "False\n"
    repo.commit("fewer", {names[0]: first})
    assert convert_from(hub, tmp_path / "work", "wildchat").stdout == "True\n"
    pinned = convert_from(hub, tmp_path / "pinned", "wildchat", f"{REPO}@{commit.oid}")
    assert pinned.returncode == 0, pinned.stderr
    assert len(rows(Workspace(tmp_path / "pinned"))) == 20 and len(rows(workspace)) == 10


def test_wildfeedback_on_the_hub_is_read_from_all_its_configurations(tmp_path: Path, hub: HubServer) -> None:
    utterances = [
        {"UtteranceId": i, "Role": ("User", "Agent")[i % 2], "Content": f"c{i}", "Satisfaction": False}
        | {"Disatisfaction": i == 2}
        for i in range(4)
    ]
    talk = [{"from": "human", "value": "q"}]
    pair = {"conversations": talk, "chosen": {"value": "good"}, "rejected": {"value": "bad"}}
    hub.create(REPO).commit(
        "logs",
        {
            "README.md": CONFIGS.encode(),
            "sat_dsat_annotation.json": json.dumps(utterances).encode(),
            "wildfeedback.json": json.dumps([pair]).encode(),
        },
    )
    done = convert_from(hub, tmp_path / "work", "wildfeedback")
    assert done.returncode == 0, done.stderr
    workspace = Workspace(tmp_path / "work")
    assert [row["label"] for row in rows(workspace, "labels/wildfeedback")] == ["DSAT"]
    assert len(rows(workspace, "preferences")) == 1


def test_a_hub_data_set_that_is_not_there_is_one_clear_error(tmp_path: Path, hub: HubServer) -> None:
    done = convert_from(hub, tmp_path / "work", "wildchat", "someone/else")
    assert done.returncode == 1
    assert (
        "UserError: someone/else is no path on this machine, and on the Hub it cannot be read" in done.stderr
    )


def test_a_private_hub_data_set_without_login_is_one_clear_error(tmp_path: Path, hub: HubServer) -> None:
    hub.create(REPO)
    done = convert_from(hub, tmp_path / "work", "wildchat", token=None)
    assert done.returncode == 1
    assert "UserError: someone/logs is no path" in done.stderr and "hf auth login" in done.stderr


def test_a_hub_that_cannot_be_reached_is_one_clear_error(tmp_path: Path, hub: HubServer) -> None:
    done = convert_from(hub, tmp_path / "work", "wildchat", HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and "UserError: someone/logs is no path" in done.stderr, done.stderr
    assert hub.requests == []


def test_a_hub_that_fails_while_it_is_read_costs_no_row_but_stops_the_run(
    tmp_path: Path, hub: HubServer
) -> None:
    raw = write_wildchat(tmp_path / "1.parquet", [chat("q", "a")])
    hub.create(REPO).commit("logs", {"data/train-00000-of-00001.parquet": raw.read_bytes()})
    hub.fail("resolve", 404)
    done = convert_from(hub, tmp_path / "work", "wildchat")
    assert done.returncode == 1 and "UserError" in done.stderr, done.stderr
    assert not (tmp_path / "work" / "conversations").exists()


def test_files_of_all_splits_of_a_downloaded_copy_are_found(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        write_wildchat(tmp_path / "copy" / "data" / name, [chat("q", "a")])
    found = find_hub_files(str(tmp_path / "copy"))
    assert sorted(file.name for file in found) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00001.parquet",
    ]
