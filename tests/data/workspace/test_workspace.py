"""Stages are atomic, skip what is done, redo what changed, and account for every row."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drift_data import schema
from drift_data.workspace import AccountingError, Output, TableWriter, UserError, Workspace
from drift_data.workspace import table as table_module
from tests.helpers.paths import ROOT

NUMBERS = pa.schema([pa.field("conversation_id", pa.string(), nullable=False), ("n", pa.int64())])


def write_numbers(count: int, dropped: int = 0, lost: int = 0):
    def build(outputs: Mapping[str, Output]) -> None:
        output = outputs["numbers"]
        output.rows_in = count + dropped + lost
        output.table(NUMBERS).write_rows([{"conversation_id": f"c{i}", "n": i} for i in range(count)])
        output.drop(
            [
                {"conversation_id": f"d{i}", "turn": None, "reason": "odd", "detail": None}
                for i in range(dropped)
            ],
            schema.DROPPED,
        )

    return build


def test_a_second_run_with_equal_options_does_nothing(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    assert ws.run("count", ["numbers"], write_numbers(3), options={"k": (1, 2)})
    assert not ws.run("count", ["numbers"], write_numbers(99), options={"k": [1, 2]})
    assert ws.read("numbers").num_rows == 3


def test_a_changed_option_or_raw_file_makes_the_table_anew(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    ws.run("count", ["numbers"], write_numbers(3), options={"k": 1}, files={"a": "x"})
    assert ws.run("count", ["numbers"], write_numbers(4), options={"k": 2}, files={"a": "x"})
    assert ws.run("count", ["numbers"], write_numbers(5), options={"k": 2}, files={"a": "y"})
    assert ws.read("numbers").num_rows == 5


def test_an_equal_rebuild_changes_nothing_downstream_and_another_one_does(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)

    def copy(outputs: Mapping[str, Output]) -> None:
        outputs["copy"].table(NUMBERS).write(ws.read("numbers"))

    ws.run("count", ["numbers"], write_numbers(3), options={"k": 1})
    assert ws.run("copy", ["copy"], copy, options={}, inputs=["numbers"])
    ws.run("count", ["numbers"], write_numbers(3), options={"k": 2})  # other options, same rows
    assert not ws.run("copy", ["copy"], copy, options={}, inputs=["numbers"])
    ws.run("count", ["numbers"], write_numbers(4), options={"k": 3})
    with pytest.raises(UserError, match="made from another numbers"):
        ws.require("copy")
    assert ws.run("copy", ["copy"], copy, options={}, inputs=["numbers"])


def test_a_lost_row_stops_the_stage_and_publishes_nothing(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    with pytest.raises(AccountingError, match="6 rows in, but 3 out and 2 dropped"):
        ws.run("count", ["numbers"], write_numbers(3, dropped=2, lost=1), options={})
    assert not ws.path("numbers").exists()
    assert not ws.dropped_path("numbers").exists()


def test_the_accounting_holds_when_it_is_checked_from_outside(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    ws.run("count", ["numbers"], write_numbers(5, dropped=2), options={})
    manifest = json.loads((tmp_path / "numbers/manifest.json").read_text())
    kept = duckdb.sql(f"select count(*) from '{tmp_path}/numbers/*.parquet'").fetchall()
    dropped = duckdb.sql(
        f"select reason, count(*) from '{tmp_path}/dropped/numbers/*.parquet' group by 1"
    ).fetchall()
    assert (manifest["rows_in"], kept, dropped) == (7, [(5,)], [("odd", 2)])
    assert manifest["dropped"] == {"odd": 2}


def test_a_failed_run_leaves_the_table_of_the_run_before(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    ws.run("count", ["numbers"], write_numbers(3), options={"k": 1})

    def fail(outputs: Mapping[str, Output]) -> None:
        outputs["numbers"].table(NUMBERS).write_rows([{"conversation_id": "x", "n": 0}])
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError):
        ws.run("count", ["numbers"], fail, options={"k": 2})
    assert ws.read("numbers").num_rows == 3
    assert not (tmp_path / ".tmp").exists()


def test_dropped_rows_of_the_run_before_go_when_nothing_is_dropped_any_more(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    ws.run("count", ["numbers"], write_numbers(3, dropped=1), options={"k": 1})
    ws.run("count", ["numbers"], write_numbers(3), options={"k": 2})
    assert not ws.dropped_path("numbers").exists()


def test_a_missing_input_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Run `make convert` first"):
        Workspace(tmp_path).run("label", ["labels/x"], write_numbers(1), options={}, inputs=["conversations"])


def test_a_second_process_is_told_and_stops(tmp_path: Path) -> None:
    code = "from drift_data.workspace import Workspace; Workspace('.').run('c', ['n'], lambda b: None, options={})"
    with Workspace(tmp_path).lock():
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert "Another process is working in" in done.stderr


def test_what_a_process_killed_just_after_publishing_left_behind_is_cleared_by_the_next_run(
    tmp_path: Path,
) -> None:
    ws = Workspace(tmp_path)
    assert ws.run("count", ["numbers"], write_numbers(1), options={})
    (tmp_path / ".tmp" / "old" / "numbers").mkdir(parents=True)
    assert not ws.run("count", ["numbers"], write_numbers(1), options={})
    assert not (tmp_path / ".tmp").exists()


def test_a_process_killed_while_it_writes_leaves_no_table_and_the_next_run_makes_it(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from drift_data.workspace import Workspace
        import pyarrow as pa
        S = pa.schema([("n", pa.int64())])
        def build(outputs):
            writer = outputs["numbers"].table(S)
            for i in range(3):
                writer.write_rows([{"n": i}])
            writer._flush()  # on the disk, in the temporary folder
            print("written", flush=True)
            time.sleep(float(sys.argv[1]))
        Workspace(".").run("count", ["numbers"], build, options={})
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script, "60"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert Workspace(tmp_path).manifest("numbers") is None
    subprocess.run([sys.executable, "-c", script, "0"], cwd=tmp_path, check=True, capture_output=True)
    assert Workspace(tmp_path).read("numbers")["n"].to_pylist() == [0, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "numbers"]


def test_unfinished_work_is_there_for_the_next_run_with_the_same_options_and_gone_when_it_ends(
    tmp_path: Path,
) -> None:
    ws = Workspace(tmp_path)
    found: list[list[str]] = []

    def build(outputs: Mapping[str, Output], *, stop: bool) -> None:
        folder = outputs["runs/numbers"].unfinished
        found.append([path.name for path in folder.iterdir()])
        (folder / f"shard-{len(found)}").touch()
        if stop:
            raise KeyboardInterrupt

    def run(k: int, *, stop: bool) -> None:
        ws.run("count", ["runs/numbers"], lambda outputs: build(outputs, stop=stop), options={"k": k})

    for k in (1, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            run(k, stop=True)
    assert found == [[], ["shard-1"], []]  # another option: nothing of the old work counts
    run(2, stop=False)
    assert found[-1] == ["shard-3"]
    assert not list(tmp_path.glob(".unfinished/*"))
    assert [path.name for path in (tmp_path / "runs/numbers").iterdir()] == ["manifest.json"]


def test_row_groups_and_shards_stay_within_their_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "ROWS_PER_GROUP", 10)
    monkeypatch.setattr(table_module, "GROUPS_PER_SHARD", 2)
    writer = TableWriter(tmp_path, NUMBERS)
    writer.write(pa.table({"conversation_id": [str(i) for i in range(45)], "n": range(45)}))
    writer.close()
    files = [pq.ParquetFile(path) for path in sorted(tmp_path.glob("*.parquet"))]
    groups = [[f.metadata.row_group(g).num_rows for g in range(f.num_row_groups)] for f in files]
    assert groups == [[10, 10], [10, 10], [5]]
    assert pq.read_table(tmp_path)["n"].to_pylist() == list(range(45))


def test_a_null_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((pa.ArrowInvalid, ValueError)):
        writer = TableWriter(tmp_path, NUMBERS)
        writer.write(pa.table({"conversation_id": pa.array([None], pa.string()), "n": [1]}))
        writer.close()


def test_a_manifest_of_another_layout_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers/manifest.json").write_text('{"stage": "count"}')
    with pytest.raises(UserError, match=r"Delete .*numbers and run again"):
        Workspace(tmp_path).manifest("numbers")


def test_an_empty_table_opens_with_its_columns(tmp_path: Path) -> None:
    import polars as pl

    writer = TableWriter(tmp_path, NUMBERS)
    writer.close()
    shards = f"{tmp_path}/*.parquet"
    assert duckdb.sql(f"select * from '{shards}'").columns == NUMBERS.names
    assert pl.read_parquet(shards).columns == NUMBERS.names
    assert pq.read_table(tmp_path).schema == NUMBERS


def test_a_long_chain_of_stages_is_checked_in_one_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = Workspace(tmp_path)
    ws.run("count", ["n0"], lambda build: None, options={})
    ws.run("count", ["n1"], lambda build: None, options={}, inputs=["n0"])
    for k in range(2, 24):  # each from the two before it: 2^22 paths to the first
        ws.run("count", [f"n{k}"], lambda build: None, options={}, inputs=[f"n{k - 1}", f"n{k - 2}"])
    read, manifest = [], Workspace.manifest
    monkeypatch.setattr(Workspace, "manifest", lambda self, name: read.append(name) or manifest(self, name))
    ws.require("n23")
    assert sorted(read) == sorted(f"n{k}" for k in range(24))


def test_a_table_that_is_a_link_is_replaced_and_what_it_led_to_stays(tmp_path: Path) -> None:
    theirs, ours = Workspace(tmp_path / "theirs"), Workspace(tmp_path / "ours")
    theirs.run("count", ["numbers"], write_numbers(3), options={})
    ours.root.mkdir()
    ours.path("numbers").symlink_to(theirs.path("numbers"))
    ours.run("count", ["numbers"], write_numbers(5), options={"k": 1})
    assert (ours.read("numbers").num_rows, ours.path("numbers").is_symlink()) == (5, False)
    assert theirs.require("numbers").rows_out == theirs.read("numbers").num_rows == 3


def test_a_workspace_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "logs.jsonl").touch()
    with pytest.raises(UserError, match=r"logs\.jsonl is a file"):
        Workspace(tmp_path / "logs.jsonl")


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("simulated/pretrain", "simulate"),
        ("base", "warm"),
        ("seed", "seed"),
        ("labels/local", "label"),
        ("quality/local", "calibrate"),
        ("distilled/own", "distill"),
        ("runs/demo/iter0/model", "warm"),
        ("runs/demo/iter0/eval", "eval"),
    ],
)
def test_the_command_that_is_named_exists(tmp_path: Path, name: str, target: str) -> None:
    with pytest.raises(UserError, match=f"Run `make {target}` first"):
        Workspace(tmp_path).require(name)
    assert f"\n{target}: setup" in (ROOT / "Makefile").read_text()


def test_a_missing_folder_of_a_run_names_the_command_with_its_options(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Run `make iter N=1 METHOD=iterdpo` first"):
        Workspace(tmp_path).require("runs/demo/iter2/rewards")


def test_a_stale_sample_of_labels_names_the_target_of_its_stage(tmp_path: Path) -> None:
    """The stage that labels a sample is called "sample"; no Make target is."""
    ws = Workspace(tmp_path)
    ws.run("count", ["numbers"], write_numbers(1), options={"k": 1})
    ws.run("sample", ["labels/x-sample"], lambda build: None, options={}, inputs=["numbers"])
    ws.run("count", ["numbers"], write_numbers(2), options={"k": 2})
    with pytest.raises(UserError, match="Run `make label` again"):
        ws.require("labels/x-sample")
