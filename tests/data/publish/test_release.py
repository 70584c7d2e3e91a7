import json

import pytest

from drift_data.convert.options import CleanOptions
from drift_data.convert.stage import convert
from drift_data.publish.release import RELEASE_FILES, export_release
from drift_data.schema import DSAT_ROWS, SAT_ROWS, SEED_ROWS
from drift_data.workspace import UserError, Workspace


def messages(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


PROMPT = messages("Wie spät ist es?\u2028\x00")
BAD, GOOD = (
    messages("", "bad \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"))[1:],
    messages("", "good")[1:],
)
KEY = {"conversation_id": "c", "turn": 2}
DSAT = KEY | {
    "split": "train",
    "prompt": PROMPT,
    "rejected": BAD,
    "feedback": "no",
    "items": ["Style"],
    "reason": None,
}
SAT = KEY | {
    "split": "train",
    "prompt": PROMPT,
    "chosen": GOOD,
    "feedback": "thx",
    "items": [],
    "reason": "r",
}
SEED = KEY | {"split": "train", "prompt": PROMPT, "rejected": BAD, "feedback": "no", "chosen": GOOD}


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "work")

    def build(outputs):
        outputs["dsat"].table(DSAT_ROWS).write_rows([DSAT, DSAT | {"conversation_id": "d", "split": "test"}])
        outputs["sat"].table(SAT_ROWS).write_rows([SAT])
        outputs["seed"].table(SEED_ROWS).write_rows([SEED, SEED | {"conversation_id": "d", "split": "test"}])

    workspace.run("seed", ["dsat", "sat", "seed"], build, options={})
    return workspace


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_the_release_layout_has_its_own_keys_first_and_ours_after(workspace, tmp_path):
    folder = tmp_path / "out" / "release"
    folder.parent.mkdir()
    assert export_release(workspace, folder) == dict(zip(RELEASE_FILES, (2, 1, 1, 1), strict=True))
    first = lines(folder / "dsat_data.jsonl")[0]
    assert list(first)[:3] == ["prompt", "rejected", "user_preference"]
    assert first["user_preference"]["content"] == "no"
    assert {"prompt": first["prompt"], "rejected": first["rejected"]} == {"prompt": PROMPT, "rejected": BAD}
    assert (first["conversation_id"], first["turn"], first["split"], first["items"]) == (
        "c",
        2,
        "train",
        ["Style"],
    )
    [seed] = lines(folder / "seed-data" / "train.jsonl")
    assert list(seed)[:3] == ["prompt", "chosen", "rejected"] and seed["feedback"] == "no"
    assert [row["conversation_id"] for row in lines(folder / "seed-data" / "test.jsonl")] == ["d"]
    assert lines(folder / "sat_data.jsonl")[0]["chosen"] == GOOD


def test_an_earlier_export_is_replaced_and_anything_else_is_left_alone(workspace, tmp_path):
    folder = tmp_path / "release"
    export_release(workspace, folder)
    (folder / "dsat_data.jsonl").write_text("old")
    export_release(workspace, folder)
    assert len(lines(folder / "dsat_data.jsonl")) == 2
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        export_release(workspace, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_unfinished_tables_are_not_exported(workspace, tmp_path):
    (workspace.path("seed") / "manifest.json").unlink()
    with pytest.raises(UserError, match="seed"):
        export_release(workspace, tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_an_export_that_fails_halfway_leaves_the_earlier_one(workspace, tmp_path, monkeypatch):
    folder = tmp_path / "release"
    export_release(workspace, folder)
    before = (folder / "sat_data.jsonl").read_text(encoding="utf-8")
    monkeypatch.setattr("drift_data.publish.release._shape_sat_row", lambda row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_release(workspace, folder)
    assert (folder / "sat_data.jsonl").read_text(encoding="utf-8") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release", "work"]


def test_what_is_exported_reads_back_as_the_same_examples(workspace, tmp_path):
    folder = tmp_path / "release"
    export_release(workspace, folder)
    again = Workspace(tmp_path / "again")
    convert(again, "drift-release", [str(folder)], CleanOptions(deduplicate="off"))
    for table in ("dsat", "sat", "seed"):
        rows = sorted(again.read(table).to_pylist(), key=lambda row: row["conversation_id"])
        assert rows == workspace.read(table).to_pylist()
