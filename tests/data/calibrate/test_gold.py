import polars as pl
import pytest

from drift_data.calibrate.gold import read_gold
from drift_data.calibrate.match import match_turns
from drift_data.workspace import UserError, Workspace
from tests.helpers.quality_sample import turn, write_conversations, write_gold, write_labels


@pytest.fixture
def workspace(tmp_path):
    """Conversations a and b, with labels for a:2, a:4, b:2; the judge could not label b:4."""
    workspace = Workspace(tmp_path / "work")
    write_conversations(workspace, {"a": 4, "b": 4, "c": 2}, left_out={"d": "toxic", "e": "duplicate"})
    write_labels(
        workspace,
        [turn("a", 2), turn("a", 4, 0, 9, "Revision"), turn("b", 2)],
        unlabelled={("b", 4): "invalid_answer"},
    )
    return workspace


def test_the_three_file_kinds_give_the_same_gold(tmp_path, workspace):
    rows = [("a", 2, "dsat ", "Style", 3, True), ("b", 2, "NEUTRAL", "None", 0, False)]
    names = ("conversation_hash", "turn", "label", "item", "strength", "refusal")
    frame = pl.DataFrame(rows, schema=names, orient="row")
    frame.write_csv(tmp_path / "gold.csv")
    frame.write_ndjson(tmp_path / "gold.jsonl")
    frame.write_parquet(tmp_path / "gold.parquet")
    for ending in ("csv", "jsonl", "parquet"):
        gold = read_gold(workspace, str(tmp_path / f"gold.{ending}"))
        assert gold.rows.rows() == [
            ("a", 2, "DSAT", "Style", 3.0, True),
            ("b", 2, "NEUTRAL", None, 0.0, False),
        ]
        assert gold.by_hash and gold.inputs == () and list(gold.files) == [f"gold.{ending}"]


def test_optional_columns_may_be_missing_and_a_byte_order_mark_is_no_letter(tmp_path, workspace):
    (tmp_path / "gold.csv").write_text("\ufeffconversation_id,turn,label\na,2,SAT\n", encoding="utf-8")
    gold = read_gold(workspace, str(tmp_path / "gold.csv"))
    assert gold.rows.rows() == [("a", 2, "SAT", None, None, None)] and not gold.by_hash


def test_rows_that_nobody_has_labelled_yet_are_passed_over_and_counted(tmp_path, workspace, capsys):
    (tmp_path / "gold.csv").write_text("conversation_id,turn,label,message\na,2,SAT,hi\na,4,,no\nb,2, ,so\n")
    assert [row[:3] for row in read_gold(workspace, str(tmp_path / "gold.csv")).rows.rows()] == [
        ("a", 2, "SAT")
    ]
    assert "2 rows without a label" in capsys.readouterr().err


def test_a_label_table_is_gold_by_its_name_or_folder(workspace):
    items = [
        {"name": "Style", "polarity": "DSAT", "strength": 2},
        {"name": "Revision", "polarity": "DSAT", "strength": 7},
    ]
    rows = [{**turn("a", 2, label="DSAT", refusal=True), "items": items}, turn("b", 2, label="SAT")]
    write_labels(workspace, rows, "labels/human-jo", thresholds=None)
    for name in ("human:jo", "labels/human:jo", "human-jo"):
        gold = read_gold(workspace, name)
        assert gold.rows.rows() == [
            ("a", 2, "DSAT", "Revision", 7.0, True),
            ("b", 2, "SAT", None, None, None),
        ]
        assert gold.inputs == ("labels/human-jo",) and not gold.files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "turn,label\n2,SAT\n",
            r"lacks the columns conversation_id \(or conversation_hash\). It has: turn, label",
        ),
        ("conversation_id,text\na,x\n", "lacks the columns turn, label"),
        ("conversation_id,turn,label\n", "holds no row"),
        ("conversation_id,turn,label\nc1,2,\n", "no row has a label"),
        (
            "conversation_id,turn,label\na,2,GOOD\na,4,\n",
            "label must be one of SAT, DSAT, NEUTRAL; found 'GOOD'",
        ),
        ("conversation_id,turn,label\na,2,SAT\na,two,SAT\n", "turn must be a number.* in row 2 .*'two'"),
        ("conversation_id,turn,label\na,2.5,SAT\n", "turn must be a number"),
        ("conversation_id,turn,label\n,2,SAT\n", "conversation_id must not be empty; in row 1"),
        (
            "conversation_id,turn,label\na,2,SAT\nb,2,SAT\na,2,DSAT\n",
            r"two labels for one turn: turn 2 of a \(2 such rows\)",
        ),
        ("conversation_id,turn,label\na,2,SAT,more\n", "cannot be read as csv"),
        ("", "cannot be read as csv"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, workspace, text, message):
    path = tmp_path / "gold.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_gold(workspace, str(path))
    assert str(error.value).startswith(f"GOLD={path}") and "\n" not in str(error.value)


def test_files_that_are_not_what_their_name_says_are_an_error(tmp_path, workspace):
    for name in ("gold.parquet", "gold.jsonl", "gold.csv"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00not a table{")
        with pytest.raises(UserError, match=r"cannot be read as|lacks the columns"):
            read_gold(workspace, str(tmp_path / name))


def test_gold_that_is_nowhere_is_said(workspace):
    with pytest.raises(UserError, match=r"neither a file ending in .csv, .*nor a label table"):
        read_gold(workspace, "human:nobody")
    with pytest.raises(UserError, match="there is no such file"):
        read_gold(workspace, "nowhere.csv")


def test_every_gold_turn_without_a_label_has_its_reason(tmp_path, workspace):
    keys = [("a", 2), ("a", 4), ("a", 3), ("b", 4), ("c", 2), ("d", 2), ("d", 4), ("e", 2), ("x", 2)]
    path = write_gold(tmp_path / "gold.csv", [(*key, "DSAT") for key in keys])
    every, matched, account = match_turns(workspace, "labels/test", read_gold(workspace, path))
    assert every.height == 3
    assert matched.select("conversation_id", "turn", "label", "gold_label").rows() == [
        ("a", 2, "NEUTRAL", "DSAT"),
        ("a", 4, "DSAT", "DSAT"),
    ]
    assert (account.turns, account.conversations, account.only_labels) == (2, 1, 1)
    assert account.only_gold == {
        "conversation left out by convert: toxic": 2,
        "no feedback turn of the labels": 1,
        "not labelled: invalid_answer": 1,
        "conversation not labelled": 1,
        "conversation left out by convert: duplicate": 1,
        "conversation not in the workspace": 1,
    }


def test_a_hash_that_stands_for_several_conversations_is_set_aside(tmp_path):
    workspace = Workspace(tmp_path / "work")
    names = {"a": 2, "a-2": 2, "b": 2, "c": 2}
    write_conversations(workspace, names, left_out={"b-2": "duplicate", "c-2": "toxic"})
    write_labels(workspace, [turn(name, 2) for name in names])
    rows = [(name, 2, "SAT") for name in "abc"]
    hashes = write_gold(tmp_path / "hash.csv", rows, "conversation_hash,turn,label")
    _, matched, account = match_turns(workspace, "labels/test", read_gold(workspace, hashes))
    assert matched["conversation_id"].to_list() == ["b"]
    assert account.only_gold == {"the hash stands for several conversations": 2}
    ids = write_gold(tmp_path / "id.csv", rows)
    assert match_turns(workspace, "labels/test", read_gold(workspace, ids))[2].turns == 3


def test_nothing_in_common_is_an_error_that_shows_both_sides(tmp_path, workspace):
    path = write_gold(tmp_path / "gold.csv", [("x", 2, "SAT"), ("d", 2, "SAT")])
    with pytest.raises(UserError, match=r"no turn in common: .*not in the workspace 1.*\['x'\].*\['a'\]"):
        match_turns(workspace, "labels/test", read_gold(workspace, path))
