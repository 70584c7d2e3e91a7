"""Publishing over HTTP to a loopback Hub: what arrives, what is refused, what is said when the Hub fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub.utils import _http

from drift_data.publish.options import PublishOptions
from drift_data.publish.stage import publish_tables
from drift_data.schema import (
    CONVERSATIONS,
    DSAT_ROWS,
    LABEL_ROWS,
    PAIRS,
    PREFERENCES,
    SAT_ROWS,
    SEED_ROWS,
)
from drift_data.workspace import UserError, Workspace
from tests.helpers.hub_server import CUT, TOKEN, HubServer, hub_server

REPO = "team/complaints"
Row = dict[str, Any]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    with hub_server() as server:
        yield server


def message(role: str, content: str) -> Row:
    return {"role": role, "content": content}


def example(number: int, split: str = "train", **columns: Any) -> Row:
    return {
        "conversation_id": f"c{number}",
        "turn": 2,
        "split": split,
        "prompt": [message("user", f"question {number}")],
        "feedback": f"that is wrong, number {number}",
        **columns,
    }


def make(
    workspace: Workspace,
    stage: str,
    tables: Mapping[str, tuple[pa.Schema, Sequence[Row]]],
    inputs: Sequence[str] = (),
    **options: Any,
) -> None:
    def build(outputs: Any) -> None:
        for name, (schema, rows) in tables.items():
            outputs[name].table(schema).write_rows(rows)
            outputs[name].rows_in = len(rows)
            outputs[name].made_by = {"judge": "local:rules", "rubric": "abc"} if stage == "label" else {}

    workspace.run(stage, list(tables), build, options=options, inputs=inputs)


def conversations(workspace: Workspace, source: str, toxic: Sequence[int] = (), flagged: bool = True) -> None:
    rows = [
        {
            "conversation_id": f"c{number}",
            "source": source,
            "toxic": number in toxic if flagged else None,
            "messages": [message("user", "hi"), message("assistant", "hello"), message("user", "no")],
        }
        for number in range(20)
    ]
    make(workspace, "convert", {"conversations": (CONVERSATIONS, rows)}, source=source, toxic=list(toxic))


def mined(workspace: Workspace, dsat: Sequence[Row] | None = None) -> None:
    label = {
        "conversation_id": "c1",
        "turn": 2,
        "label": "DSAT",
        "sat_score": 0.0,
        "dsat_score": 3.0,
        "judge": "local:rules",
        "rubric": "abc",
    }
    make(
        workspace,
        "label",
        {"labels/local": (LABEL_ROWS, [label])},
        ["conversations"],
        thresholds={"dsat": 2.0},
    )
    bad, good = [message("assistant", "bad")], [message("assistant", "good")]
    if dsat is None:
        dsat = [example(n, rejected=bad, items=["Revision"]) for n in range(6)]
        dsat.append(example(7, "test", rejected=bad, items=[], reason="says so"))
    make(
        workspace,
        "seed",
        {
            "dsat": (DSAT_ROWS, dsat),
            "sat": (SAT_ROWS, [example(8, chosen=good), example(9, "test", chosen=good)]),
            "seed": (SEED_ROWS, []),
        },
        ["conversations", "labels/local"],
        labels="labels/local",
        per_conversation=1,
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path / "work")
    conversations(made, "wildchat")
    mined(made)
    return made


def send(
    workspace: Workspace, hub: HubServer, repo: str = REPO, token: str | None = TOKEN, **options: Any
) -> str:
    return publish_tables(workspace, repo, PublishOptions(**options), token, hub.endpoint)


def files(hub: HubServer, repo: str = REPO) -> dict[str, bytes]:
    return hub.repos[repo].head.files


def card(hub: HubServer) -> str:
    return files(hub)["README.md"].decode()


def front_matter(hub: HubServer) -> Any:
    return yaml.safe_load(card(hub).split("---\n")[1])


# what arrives


def test_one_commit_holds_every_table_by_split_and_the_card(workspace: Workspace, hub: HubServer) -> None:
    url = send(workspace, hub)
    repo = hub.repos[REPO]
    assert [commit.message for commit in repo.commits] == ["initial commit", "Publish dsat, sat, seed"]
    assert url == f"{hub.endpoint}/datasets/{REPO}/commit/{repo.head.oid}"
    assert repo.private
    assert set(repo.head.files) == {
        ".gitattributes",
        "README.md",
        "dsat/train/part-00000.parquet",
        "dsat/test/part-00000.parquet",
        "sat/train/part-00000.parquet",
        "sat/test/part-00000.parquet",
    }
    sent = pq.read_table(pa.BufferReader(repo.head.files["dsat/train/part-00000.parquet"]))
    table = workspace.read("dsat")
    assert sent.equals(table.filter(pa.compute.equal(table["split"], "train")))
    assert not (workspace.root / ".publish").exists()


@pytest.mark.slow
def test_what_was_published_reads_back_with_datasets(
    workspace: Workspace, hub: HubServer, tmp_path: Path
) -> None:
    make_pairs(workspace, "demo-drift", 1)
    send(workspace, hub, run="demo-drift")
    script = (
        "import json, sys, datasets\n"
        "datasets.disable_progress_bars()\n"
        "out = {c: {s: rows.to_list() for s, rows in datasets.load_dataset(sys.argv[1], c).items()}\n"
        "       for c in datasets.get_dataset_config_names(sys.argv[1])}\n"
        "print(json.dumps(out))"
    )
    offline = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")} | offline
    result = subprocess.run(
        [sys.executable, "-c", script, REPO], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    read = json.loads(result.stdout)
    expected = {
        "dsat": workspace.read("dsat").to_pylist(),
        "sat": workspace.read("sat").to_pylist(),
        "pairs-iter1": workspace.read("runs/demo-drift/iter1/pairs").to_pylist(),
    }
    assert set(read) == set(expected)
    for config, rows in expected.items():
        by_split = {
            split: [row for row in rows if row["split"] == split]
            for split in dict.fromkeys(r["split"] for r in rows)
        }
        assert read[config] == by_split, config


def test_equal_content_is_not_committed_twice(
    workspace: Workspace, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    first = send(workspace, hub)
    assert "publish: published" in capsys.readouterr().err
    assert send(workspace, hub) == first
    assert "the same content is there already" in capsys.readouterr().err
    assert len(hub.repos[REPO].commits) == 2
    assert hub.count("commit") == 1


def test_what_is_no_longer_published_is_deleted_and_foreign_files_stay(
    workspace: Workspace, hub: HubServer
) -> None:
    make_pairs(workspace, "demo-drift", 1)
    send(workspace, hub, run="demo-drift")
    repo = hub.repos[REPO]
    repo.commit("by hand", {**repo.head.files, "notes/paper.txt": b"mine"})
    send(workspace, hub)
    assert not any(path.startswith("pairs-") for path in files(hub))
    assert files(hub)["notes/paper.txt"] == b"mine"
    assert len(repo.commits) == 4


def make_pairs(workspace: Workspace, run: str, iteration: int) -> None:
    rows = [
        {
            "conversation_id": "c1",
            "turn": 2,
            "split": "train",
            "prompt": [message("user", "question 1")],
            "chosen": [message("assistant", "better")],
            "rejected": [message("assistant", "bad")],
            "chosen_tokens": 3,
            "rejected_tokens": 2,
            "method": "drift",
            "policy": "iter0",
        }
    ]
    make(workspace, "iter", {f"runs/{run}/iter{iteration}/pairs": (PAIRS, rows)}, ["dsat"], method="drift")


def test_pairs_of_a_run_are_configs_of_their_own(workspace: Workspace, hub: HubServer) -> None:
    make_pairs(workspace, "demo-drift", 1)
    make_pairs(workspace, "demo-drift", 2)
    make_pairs(workspace, "other", 1)
    send(workspace, hub, run="demo-drift")
    configs = [config["config_name"] for config in front_matter(hub)["configs"]]
    assert configs == ["dsat", "sat", "pairs-iter1", "pairs-iter2"]
    with pytest.raises(UserError, match=r"Run 'demo' has no pairs.*Runs there: demo-drift, other"):
        send(workspace, hub, run="demo")


# the card


def test_the_card_names_licence_notice_configs_counts_judge_and_drops(
    workspace: Workspace, hub: HubServer
) -> None:
    send(workspace, hub)
    meta, text = front_matter(hub), card(hub)
    assert meta["license"] == "odc-by"
    assert meta["source_datasets"] == ["allenai/WildChat-1M"]
    assert meta["size_categories"] == ["n<1K"]
    assert meta["configs"][0] == {
        "config_name": "dsat",
        "default": True,
        "data_files": [
            {"split": "train", "path": "dsat/train/*.parquet"},
            {"split": "test", "path": "dsat/test/*.parquet"},
        ],
    }
    assert "Open Data Commons Attribution License" in text
    assert "| `dsat` | a reply that drew a complaint, and the complaint | 6 | 1 |" in text
    assert "| `seed` | a reply that drew a complaint, and the revised reply that satisfied | 0 | 0 |" in text
    assert "judged SAT, DSAT or NEUTRAL by `local:rules`, rubric `abc`" in text
    assert "`dsat` `2.0`" in text
    assert "{{" not in text and "{%" not in text


def test_own_logs_get_no_licence_unless_one_is_given(tmp_path: Path, hub: HubServer) -> None:
    workspace = Workspace(tmp_path)
    conversations(workspace, "chat")
    mined(workspace)
    send(workspace, hub)
    assert front_matter(hub)["license"] == "other"
    send(workspace, hub, licence="cc-by-4.0")
    assert front_matter(hub)["license"] == "cc-by-4.0"


def test_text_from_manifests_cannot_become_mark_up_of_the_card(tmp_path: Path, hub: HubServer) -> None:
    hostile = "`x` <script>alert(1)</script> | y\n---\nlicense: mit\n# heading"
    workspace = Workspace(tmp_path)
    conversations(workspace, "wildchat")
    mined(workspace)
    manifest = json.loads((workspace.path("labels/local") / "manifest.json").read_text())
    manifest["made_by"]["judge"] = hostile
    manifest["dropped"] = {hostile: 1}
    (workspace.path("labels/local") / "manifest.json").write_text(json.dumps(manifest))
    send(workspace, hub)
    text = card(hub)
    assert "\n# heading" not in text and "\nlicense: mit" not in text
    lines = [line for line in text.splitlines() if "<script>" in line]
    assert len(lines) == 2
    for line in lines:
        inside = line[line.index("`'x'") + 1 :]
        assert "<script>" in inside[: inside.index("`")]  # as code, which does nothing
        assert "| y" not in line


# what is refused


@pytest.mark.parametrize("token", [None, "", "  \n"])
def test_no_token_no_request(workspace: Workspace, hub: HubServer, token: str | None) -> None:
    with pytest.raises(UserError, match="HF_TOKEN"):
        send(workspace, hub, token=token)
    assert hub.requests == []


def test_a_token_that_no_header_takes_is_refused_and_not_shown(workspace: Workspace, hub: HubServer) -> None:
    with pytest.raises(UserError, match="HF_TOKEN is no token") as error:
        send(workspace, hub, token=f"{TOKEN}\nX-Other: 1")
    assert TOKEN not in str(error.value)


@pytest.mark.parametrize("repo", ["complaints", "a/b/c", "team/../x", "team/", ""])
def test_a_repository_name_without_owner_is_refused(workspace: Workspace, hub: HubServer, repo: str) -> None:
    with pytest.raises(UserError, match="REPO="):
        send(workspace, hub, repo)
    assert hub.requests == []


def test_rows_of_toxic_conversations_are_named_and_refused(tmp_path: Path, hub: HubServer) -> None:
    workspace = Workspace(tmp_path)
    conversations(workspace, "wildchat", toxic=[3, 9, 15])
    mined(workspace)
    with pytest.raises(
        UserError, match=r"2 rows come from .*toxic \(toxic 2\): dsat c3 turn 2; sat c9 turn 2"
    ) as e:
        send(workspace, hub)
    assert "publish.allow_toxic=true" in str(e.value)
    assert (tmp_path / "publish/refused.csv").read_text().splitlines()[1:] == [
        "dsat,c3,2,,toxic,",
        "sat,c9,2,,toxic,",
    ]
    assert hub.requests == []
    send(workspace, hub, allow_toxic=True)
    assert "2 rows come from conversations that the source flags as toxic" in card(hub)
    assert not (tmp_path / "publish/refused.csv").exists()


def test_the_card_counts_rows_without_a_toxicity_flag(tmp_path: Path, hub: HubServer) -> None:
    workspace = Workspace(tmp_path)
    conversations(workspace, "lmsys", flagged=False)
    mined(workspace)
    send(workspace, hub)
    assert "9 rows come from conversations of which the source does not say whether they are toxic" in card(
        hub
    )


PRIVATE = {
    "email": "write to Ann.Lee@corp-mail.de please",
    "phone": "call +49 30 901820 please",
    "ip_address": "log in from 93.184.216.34 please",
    "card": "pay with 5500 0055 5555 5559 please",
    "iban": "send it to DE89 3704 0044 0532 0130 00 please",
    "key": "use ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8 please",
}


@pytest.mark.parametrize("kind", PRIVATE)
@pytest.mark.parametrize("column", ["prompt", "rejected", "feedback", "reason"])
def test_own_logs_with_personal_data_are_refused(
    tmp_path: Path, hub: HubServer, kind: str, column: str
) -> None:
    text: Any = PRIVATE[kind]
    workspace = Workspace(tmp_path)
    conversations(workspace, "chat")
    row = {"rejected": [message("assistant", "bad")]}
    value = [message("user", text)] if column in ("prompt", "rejected") else text
    mined(workspace, [example(1, **row), example(2, **{**row, column: value})])
    with pytest.raises(
        UserError, match=rf"1 rows of own logs .*{kind} 1\): dsat c2 turn 2, {kind} .* in {column}"
    ) as e:
        send(workspace, hub)
    assert "publish.allow_pii=true" in str(e.value)
    secret = text.removesuffix(" please").split(" ", 1)[1]
    listed = (tmp_path / "publish/refused.csv").read_text()
    assert secret[-8:] not in str(e.value) and secret[-8:] not in listed
    assert hub.requests == []


def test_personal_data_in_own_logs_can_be_published_on_purpose(tmp_path: Path, hub: HubServer) -> None:
    workspace = Workspace(tmp_path)
    conversations(workspace, "chat")
    mined(workspace, [example(1, rejected=[message("assistant", PRIVATE["email"])])])
    send(workspace, hub, allow_pii=True)
    assert "The scan for personal data was switched off" in card(hub)


def test_a_clean_scan_is_stated_in_the_card(tmp_path: Path, hub: HubServer) -> None:
    workspace = Workspace(tmp_path)
    conversations(workspace, "chat")
    mined(workspace)
    send(workspace, hub)
    assert "were scanned for e-mail addresses" in card(hub)


def test_a_source_nobody_knows_counts_as_own_logs(tmp_path: Path, hub: HubServer) -> None:
    workspace = Workspace(tmp_path)
    conversations(workspace, "somewhere")
    mined(workspace, [example(1, rejected=[message("assistant", PRIVATE["email"])])])
    with pytest.raises(UserError, match="own logs"):
        send(workspace, hub)


def test_public_sources_are_not_scanned(tmp_path: Path, hub: HubServer) -> None:
    workspace = Workspace(tmp_path)
    conversations(workspace, "wildchat")
    mined(workspace, [example(1, rejected=[message("assistant", PRIVATE["email"])])])
    send(workspace, hub)
    assert "Personal data was not searched for" in card(hub)


def test_examples_that_come_ready_made_have_the_source_of_their_conversion(
    tmp_path: Path, hub: HubServer
) -> None:
    workspace = Workspace(tmp_path)
    row = example(1, rejected=[message("assistant", PRIVATE["email"])])
    make(
        workspace,
        "convert",
        {"dsat": (DSAT_ROWS, [row]), "sat": (SAT_ROWS, []), "seed": (SEED_ROWS, [])},
        source="drift-release",
    )
    send(workspace, hub)
    assert front_matter(hub)["license"] == "odc-by"
    assert "the data of the DRIFT release, 1 conversations" in card(hub)


def test_a_missing_table_is_refused(workspace: Workspace, hub: HubServer) -> None:
    shutil.rmtree(workspace.path("sat"))
    with pytest.raises(UserError, match=r"sat is not there yet\. Run `make seed` first"):
        send(workspace, hub)
    assert hub.requests == []


def test_a_stale_table_is_refused(workspace: Workspace, hub: HubServer) -> None:
    conversations(workspace, "wildchat", toxic=[1])
    with pytest.raises(UserError, match=r"dsat was made from another conversations.*Run `make seed` again"):
        send(workspace, hub)
    assert hub.requests == []


def test_a_lost_shard_is_refused(workspace: Workspace, hub: HubServer) -> None:
    shard = workspace.shards("dsat")[0]
    rows = pq.read_table(shard)
    pq.write_table(rows.slice(0, 5), shard)
    with pytest.raises(UserError, match="dsat is not complete: 5 rows in 1 files, but its manifest says 7"):
        send(workspace, hub)
    shard.unlink()
    with pytest.raises(UserError, match="dsat has no Parquet file"):
        send(workspace, hub)
    assert hub.requests == []


def test_a_damaged_shard_is_refused(workspace: Workspace, hub: HubServer) -> None:
    shard = workspace.shards("dsat")[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"dsat cannot be read.*make seed"):
        send(workspace, hub)


def test_tables_without_a_row_are_nothing_to_publish(tmp_path: Path, hub: HubServer) -> None:
    workspace = Workspace(tmp_path)
    schemas = {"dsat": DSAT_ROWS, "sat": SAT_ROWS, "seed": SEED_ROWS}
    make(
        workspace, "convert", {name: (schema, []) for name, schema in schemas.items()}, source="drift-release"
    )
    with pytest.raises(UserError, match="nothing to publish"):
        send(workspace, hub)


def test_a_public_repository_is_refused_when_private_was_meant(workspace: Workspace, hub: HubServer) -> None:
    hub.create(REPO, private=False)
    with pytest.raises(UserError, match=r"exists and is public.*publish.private=false"):
        send(workspace, hub)
    assert hub.count("commit") == 0
    send(workspace, hub, private=False)
    assert hub.count("commit") == 1


def test_a_public_repository_is_made_only_when_asked_for(workspace: Workspace, hub: HubServer) -> None:
    send(workspace, hub, private=False)
    assert not hub.repos[REPO].private


# how the Hub fails


def assert_nothing_arrived(hub: HubServer) -> None:
    assert REPO not in hub.repos or set(files(hub)) == {".gitattributes"}


def test_a_wrong_token_is_named_as_such_and_not_shown(workspace: Workspace, hub: HubServer) -> None:
    wrong = "hf_thisTokenIsOld"
    with pytest.raises(UserError, match=r"does not take the token \(401\)") as error:
        send(workspace, hub, token=wrong)
    assert wrong not in str(error.value)
    assert_nothing_arrived(hub)


@pytest.mark.parametrize("point", ["create", "info", "preupload", "batch", "commit"])
def test_a_token_the_hub_repeats_is_not_shown(workspace: Workspace, hub: HubServer, point: str) -> None:
    hub.fail(point, 403, message=f"token {TOKEN} may not write")
    with pytest.raises(UserError, match="token may not write") as error:
        send(workspace, hub)
    assert TOKEN not in str(error.value)
    assert_nothing_arrived(hub)


@pytest.mark.parametrize(
    ("point", "status", "says"),
    [
        ("create", 401, "does not take the token"),
        ("commit", 401, "does not take the token"),
        ("info", 404, "The Hub has no team/complaints"),
        ("commit", 409, "Something else is writing to team/complaints"),
        ("commit", 412, "got another commit in the meantime"),
        ("commit", 500, r"The Hub failed \(500\)"),
        ("commit", 413, r"refused to publish team/complaints \(413\)"),
    ],
)
def test_an_answer_of_the_hub_becomes_a_clear_error(
    workspace: Workspace, hub: HubServer, point: str, status: int, says: str
) -> None:
    hub.fail(point, status)
    with pytest.raises(UserError, match=says) as error:
        send(workspace, hub)
    assert "told to fail" in str(error.value)
    assert_nothing_arrived(hub)
    hub.faults.clear()
    send(workspace, hub)  # the same command again is enough
    assert "README.md" in files(hub)


def test_a_commit_that_happens_in_between_is_not_overwritten(
    workspace: Workspace, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = hub.create(REPO)
    original = hub.RequestHandlerClass._preupload

    def meanwhile(handler: Any, *arguments: Any) -> None:
        repo.commit("somebody else", {**repo.head.files, "dsat/train/theirs.parquet": b"x"})
        original(handler, *arguments)

    monkeypatch.setattr(hub.RequestHandlerClass, "_preupload", meanwhile)
    with pytest.raises(UserError, match=r"got another commit in the meantime \(412\)"):
        send(workspace, hub)
    assert repo.head.message == "somebody else"


def test_a_cut_upload_is_sent_again(
    workspace: Workspace, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    hub.fail("upload", CUT, times=2)
    send(workspace, hub)
    assert "dsat/train/part-00000.parquet" in files(hub)
    assert hub.count("upload") == 4 + 2


@pytest.mark.parametrize("point", ["upload", "commit"])
def test_an_upload_that_is_always_cut_ends_and_publishes_nothing(
    workspace: Workspace, hub: HubServer, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    hub.fail(point, CUT)
    with pytest.raises(UserError, match=r"connection to .* broke while publishing team/complaints"):
        send(workspace, hub)
    assert_nothing_arrived(hub)
    assert not (workspace.root / ".publish").exists()


def test_a_hub_that_is_not_there_is_a_clear_error(workspace: Workspace) -> None:
    with pytest.raises(UserError, match=r"connection to http://127.0.0.1:9 broke"):
        publish_tables(workspace, REPO, PublishOptions(), TOKEN, "http://127.0.0.1:9")


def test_libraries_that_are_switched_off_are_named(
    workspace: Workspace, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    _http.close_session()  # a session keeps the setting it was opened with
    try:
        with pytest.raises(UserError, match="HF_HUB_OFFLINE=1"):
            send(workspace, hub)
    finally:
        monkeypatch.undo()
        _http.close_session()
    assert hub.requests == []


def test_of_ready_pairs_only_what_a_run_made_of_them_is_published(tmp_path: Path, hub: HubServer) -> None:
    workspace = Workspace(tmp_path / "ready")
    good, bad = [message("assistant", "good")], [message("assistant", "bad")]
    pair = {"conversation_id": "c1", "split": "train", "prompt": [message("user", "q")], "rejected": bad}
    preferences = {"preferences": (PREFERENCES, [{**pair, "chosen": good}])}
    make(workspace, "convert", preferences, source="ultrafeedback")
    rows = [{**pair, "chosen": good, "turn": 0, "chosen_tokens": 2, "rejected_tokens": 2}]
    rows = [{**row, "method": "drift", "policy": "iter0"} for row in rows]
    make(workspace, "iter", {"runs/uf/iter1/pairs": (PAIRS, rows)}, ["preferences"], method="drift")
    with pytest.raises(UserError, match="Give RUN=name"):
        send(workspace, hub)
    send(workspace, hub, run="uf")
    assert [config["config_name"] for config in front_matter(hub)["configs"]] == ["pairs-iter1"]
    assert front_matter(hub)["license"] == "mit"
    assert "UltraFeedback" in card(hub)
