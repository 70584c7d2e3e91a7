"""UltraFeedback in both forms, and the release layout of DRIFT."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drift_data import schema
from drift_data.convert.options import CleanOptions
from drift_data.convert.stage import convert
from drift_data.publish.release import export_release
from drift_data.sources.ultrafeedback import compute_mean_rating
from drift_data.workspace import UserError, Workspace
from tests.helpers.converted import accounts, converted, reasons, rows


def dialogue(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def binarized(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "prompt_id": prompt * 4,
        "chosen": dialogue(prompt, chosen),
        "rejected": dialogue(prompt, rejected),
        "messages": dialogue(prompt, chosen),
        "score_chosen": 8.5,
        "score_rejected": 3.0,
    }


def test_binarized_prompt_is_stripped_and_the_splits_are_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    files = {
        "train_prefs-00000-of-00001": [binarized("q1", "good", "bad")],
        "test_prefs-00000-of-00001": [binarized("q2", "good", "bad")],
        "train_sft-00000-of-00001": [binarized("q3", "good", "bad")],
        "test_gen-00000-of-00001": [binarized("q4", "good", "bad")],
    }
    for name, data in files.items():
        pq.write_table(pa.Table.from_pylist(data), folder / f"{name}.parquet")
    workspace = converted(tmp_path, "ultrafeedback", folder)
    found = {row["split"]: row for row in rows(workspace, "preferences")}
    assert set(found) == {"train", "test"}
    assert found["train"] == {
        "conversation_id": "q1q1q1q1",
        "split": "train",
        "prompt": dialogue("q1"),
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
        "score_chosen": 8.5,
        "score_rejected": 3.0,
        "feedback": None,
    }
    assert pq.read_schema(workspace.shards("preferences")[0]).equals(schema.PREFERENCES)
    assert len(workspace.require("preferences").results["files_left_out"]) == 2
    assert accounts(workspace, 2, "preferences")


def test_binarized_pairs_that_are_none_are_set_aside(tmp_path: Path) -> None:
    data = [
        binarized("q", "good", "bad"),
        binarized("q", "same", "same"),
        binarized("q", "good", "bad") | {"rejected": dialogue("another", "bad")},
        binarized("q", "good", ""),
        binarized("q", "good", "bad") | {"chosen": None},
        binarized("q", "good", "bad"),
    ]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "raw.parquet")
    workspace = converted(tmp_path, "ultrafeedback", tmp_path / "raw.parquet")
    assert reasons(workspace, "preferences") == {
        "raw.parquet:1": "chosen_equals_rejected",
        "raw.parquet:2": "prompts_differ",
        "raw.parquet:3": "empty_message",
        "raw.parquet:4": "no_messages",
        "raw.parquet:5": "duplicate",
    }
    assert accounts(workspace, 6, "preferences")


def completion(response: str, *ratings: str) -> dict[str, Any]:
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    annotations = {aspect: {"Rating": rating} for aspect, rating in zip(aspects, ratings, strict=False)}
    return {
        "model": "m",
        "response": response,
        "annotations": annotations,
        "overall_score": 1.0,
        "critique": f"about {response}",
    }


def test_rated_completions_give_the_best_against_a_worse_one_the_same_in_every_run(tmp_path: Path) -> None:
    worse = [completion("middle", "3", "3", "3", "3"), completion("worst", "1", "1", "N/A", "1")]
    best = completion("best", "5", "N/A", "4", "5")
    data = [
        {"instruction": f"q{i}", "completions": [*worse, best, completion("unrated", "N/A")]}
        for i in range(20)
    ]
    data.append({"instruction": "equal", "completions": [completion("a", "4"), completion("b", "4")]})
    data.append({"instruction": "one", "completions": [completion("a", "4"), completion("b", "N/A")]})
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, data)))
    workspace = converted(tmp_path, "ultrafeedback", tmp_path / "raw.jsonl")
    found = rows(workspace, "preferences")
    assert {row["chosen"][0]["content"] for row in found} == {"best"}
    assert {row["rejected"][0]["content"] for row in found} == {"middle", "worst"}
    assert {(r["rejected"][0]["content"], r["score_rejected"]) for r in found} == {
        ("middle", 3.0),
        ("worst", 1.0),
    }
    assert found[0]["score_chosen"] == pytest.approx(14 / 3)
    assert all(row["feedback"] == f"about {row['rejected'][0]['content']}" for row in found)
    assert reasons(workspace, "preferences") == {
        "raw.jsonl:20": "all_rated_the_same",
        "raw.jsonl:21": "fewer_than_two_rated_completions",
    }
    again = rows(converted(tmp_path / "again", "ultrafeedback", tmp_path / "raw.jsonl"), "preferences")
    assert again == found


def test_rating_is_the_mean_of_the_aspects_that_have_one() -> None:
    assert compute_mean_rating(completion("x", "5", "N/A", "2", "5")) == pytest.approx(4.0)
    assert compute_mean_rating({"response": "x"}) is None


def test_a_file_that_is_no_ultrafeedback_lists_its_keys(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text('{"prompt": "q", "answer": "a"}')
    with pytest.raises(UserError, match=r"chosen, rejected is missing.*keys: prompt, answer"):
        converted(tmp_path, "ultrafeedback", tmp_path / "raw.jsonl")


def release(folder: Path) -> Path:
    bad, good = dialogue("", "bad")[1:], dialogue("", "good")[1:]
    files: dict[str, list[dict[str, Any]]] = {
        "dsat_data.jsonl": [
            {"prompt": dialogue("q"), "rejected": bad, "user_preference": {"role": "user", "content": "No!"}},
            {"prompt": dialogue("q", "a"), "rejected": bad, "user_preference": {"content": "No!"}},
        ],
        "seed-data/train.jsonl": [{"prompt": dialogue("s1"), "chosen": good, "rejected": bad}],
        "seed-data/test.jsonl": [{"prompt": dialogue("s2"), "chosen": good, "rejected": bad}],
    }
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(map(json.dumps, data)))
    return folder


def test_release_files_become_dsat_and_seed_and_the_absent_sat_is_empty(tmp_path: Path) -> None:
    workspace = converted(tmp_path, "drift-release", release(tmp_path / "release"))
    (row,) = rows(workspace, "dsat")
    assert (row["turn"], row["feedback"]) == (2, "No!")
    assert row["prompt"] == dialogue("q") and row["rejected"] == dialogue("", "bad")[1:]
    assert row["conversation_id"].startswith("drift-release-") and row["split"] in ("train", "test")
    assert reasons(workspace, "dsat") == {"dsat_data.jsonl:1": "two_assistant_messages_in_a_row"}
    assert {r["prompt"][0]["content"]: r["split"] for r in rows(workspace, "seed")} == {
        "s1": "train",
        "s2": "test",
    }
    assert rows(workspace, "sat") == []
    assert accounts(workspace, 2, "dsat") and accounts(workspace, 2, "seed") and accounts(workspace, 0, "sat")
    for name, expected in (("dsat", schema.DSAT_ROWS), ("sat", schema.SAT_ROWS), ("seed", schema.SEED_ROWS)):
        assert pq.read_schema(workspace.shards(name)[0]).equals(expected)


def test_our_own_export_reads_back_as_the_same_tables(tmp_path: Path) -> None:
    first = converted(tmp_path, "drift-release", release(tmp_path / "release"))
    export_release(first, tmp_path / "export")
    second = converted(tmp_path / "back", "drift-release", tmp_path / "export")
    for name in ("dsat", "sat", "seed"):
        assert rows(second, name) == rows(first, name)


def test_a_release_file_of_another_layout_lists_its_keys(tmp_path: Path) -> None:
    (tmp_path / "raw.jsonl").write_text('{"prompt": [], "answer": "a"}')
    with pytest.raises(UserError, match=r"chosen or rejected is missing.*keys: prompt, answer"):
        converted(tmp_path, "drift-release", tmp_path / "raw.jsonl")


def test_evaluation_prompts_leave_the_pairs_too(tmp_path: Path) -> None:
    data = [binarized("Write a poem.", "good", "bad"), binarized("q", "good", "bad")]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "raw.parquet")
    (tmp_path / "bench.txt").write_text("write  a POEM.\n")
    workspace = converted(
        tmp_path, "ultrafeedback", tmp_path / "raw.parquet", exclude_prompts=str(tmp_path / "bench.txt")
    )
    assert reasons(workspace, "preferences") == {"raw.parquet:0": "evaluation_prompt"}


def test_several_turns_of_one_conversation_keep_its_id_and_a_repeated_key_gets_another(
    tmp_path: Path,
) -> None:
    bad = dialogue("", "bad")[1:]
    data = [
        {"conversation_id": "c", "turn": 2, "prompt": dialogue("q"), "rejected": bad},
        {"conversation_id": "c", "turn": 4, "prompt": dialogue("q", "a", "no"), "rejected": bad},
        {"conversation_id": "c", "turn": 4, "prompt": dialogue("other"), "rejected": bad},
    ]
    (tmp_path / "dsat_data.jsonl").write_text("\n".join(map(json.dumps, data)))
    workspace = converted(tmp_path, "drift-release", tmp_path / "dsat_data.jsonl")
    assert [(r["conversation_id"], r["turn"]) for r in rows(workspace, "dsat")] == [
        ("c", 2),
        ("c", 4),
        ("c-2", 4),
    ]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"user_preference": {"content": "\ud800"}}, "invalid_utf8"),
        ({"conversation_id": "\ud800"}, "invalid_utf8"),
        ({"items": ["\ud800"]}, "invalid_utf8"),
        ({"reason": "\ud800"}, "invalid_utf8"),
        ({"turn": 2**40}, None),
        ({"turn": True}, None),
    ],
)
def test_values_of_a_release_row_that_no_table_can_hold_cost_no_other_row(
    tmp_path: Path, values: dict[str, Any], reason: str | None
) -> None:
    row = {"prompt": dialogue("q"), "rejected": dialogue("", "bad")[1:]}
    other = row | {"prompt": dialogue("other")}
    (tmp_path / "dsat_data.jsonl").write_text(f"{json.dumps(row | values)}\n{json.dumps(other)}")
    workspace = converted(tmp_path, "drift-release", tmp_path / "dsat_data.jsonl")
    assert reasons(workspace, "dsat") == ({"dsat_data.jsonl:0": reason} if reason else {})
    assert {row["turn"] for row in rows(workspace, "dsat")} == {2}
    assert accounts(workspace, 2, "dsat")


def test_a_score_beyond_all_numbers_is_no_score(tmp_path: Path) -> None:
    row = json.dumps(binarized("q", "good", "bad") | {"score_chosen": 0})
    (tmp_path / "raw.jsonl").write_text(row.replace('"score_chosen": 0', '"score_chosen": 1' + "0" * 400))
    workspace = converted(tmp_path, "ultrafeedback", tmp_path / "raw.jsonl")
    assert [row["score_chosen"] for row in rows(workspace, "preferences")] == [None]


def test_the_share_of_test_rows_is_the_recipes_where_the_data_has_no_split(tmp_path: Path) -> None:
    path = tmp_path / "dsat_data.jsonl"
    with path.open("w") as file:
        for number in range(400):
            row = {
                "prompt": dialogue(f"question {number}"),
                "rejected": dialogue("", "bad")[1:],
                "user_preference": {},
            }
            file.write(json.dumps(row) + "\n")
    shares = []
    for fraction in (0.0, 0.25, 1.0):
        workspace = Workspace(tmp_path / str(fraction))
        assert convert(workspace, "drift-release", [str(path)], CleanOptions(), fraction)
        shares.append(sum(row["split"] == "test" for row in rows(workspace, "dsat")))
    assert shares[0] == 0
    assert 60 < shares[1] < 140
    assert shares[2] == 400
