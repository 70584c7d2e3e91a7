import io
import json
from pathlib import Path

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import pipelines
from drift_data.query.query import (
    describe_query,
    load_canned_queries,
    print_table,
    run_query,
    save_query,
    show_query,
)
from drift_data.report.figures import read_figures
from drift_data.report.options import AlarmOptions
from drift_data.schema import EVALUATION
from drift_data.workspace import UserError, Workspace
from tests.helpers.quality_sample import turn, write_conversations, write_labels
from tests.helpers.sample_workspace import build_data, sample

CANNED = load_canned_queries(Path(pipelines.__file__).parent / "sql")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return sample(tmp_path_factory.mktemp("query"))


def shown(table=None, workspace=None, sql="", width=100, **kwargs):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    if table is None:
        show_query(workspace, sql, console, **kwargs)
    else:
        print_table(table, console, **kwargs)
    return console.file.getvalue()


def test_the_canned_queries_are_there_and_say_what_they_show():
    assert set(CANNED) == {
        "complaints_by_model",
        "dsat_by_language",
        "dsat_by_depth",
        "items",
        "funnel",
        "drops",
        "scores_by_model",
        "to_label",
    }
    for sql in CANNED.values():
        assert sql.startswith("-- ")
        assert len(describe_query(sql)) > 20


def test_complaints_by_model_puts_the_surely_worst_first(workspace):
    found = run_query(workspace, CANNED["complaints_by_model"]).to_pylist()
    assert [(r["model"], r["feedback_turns"], r["dsat"], r["dsat_rate"]) for r in found] == [
        ("gpt-3.5", 4, 3, 0.75),
        ("gpt-4", 4, 2, 0.5),
        ("(not known)", 1, 0, 0.0),
    ]
    assert all(r["low"] <= r["dsat_rate"] <= r["high"] for r in found)


def test_dsat_by_language_counts_turns(workspace):
    found = run_query(workspace, CANNED["dsat_by_language"]).to_pylist()
    assert [(r["language"], r["feedback_turns"], r["dsat"]) for r in found] == [
        ("English", 6, 3),
        ("French", 2, 2),
        ("(not known)", 1, 0),
    ]


def test_dsat_by_depth_counts_the_judged_reply_from_one(workspace):
    found = run_query(workspace, CANNED["dsat_by_depth"]).to_pylist()
    assert [(r["reply"], r["feedback_turns"], r["dsat"], r["sat"]) for r in found] == [
        (1, 6, 4, 0),
        (2, 2, 1, 1),
        (3, 1, 0, 0),
    ]


def test_items_are_counted_with_their_strength(workspace):
    assert run_query(workspace, CANNED["items"]).to_pylist() == [
        {"item": "Revision", "polarity": "DSAT", "turns": 5, "share_of_turns": 5 / 9, "mean_strength": 6.0},
        {"item": "Gratitude", "polarity": "SAT", "turns": 1, "share_of_turns": 1 / 9, "mean_strength": 4.0},
    ]


def test_a_sign_below_the_threshold_makes_its_turn_no_complaint(tmp_path):
    workspace = Workspace(tmp_path / "work")
    write_conversations(workspace, {"a": 6})
    write_labels(
        workspace,
        [
            turn("a", 2, 0, 9, "Style", "Gratitude"),
            turn("a", 4, 0, 3, "Style", "Revision"),
            turn("a", 6, 9, 0, "Gratitude"),
        ],
    )
    found = {row["item"]: row["turns"] for row in run_query(workspace, CANNED["items"]).to_pylist()}
    assert found == {"Style": 1, "Gratitude": 1}
    shown = read_figures(workspace, "run", 0, 0, AlarmOptions()).items
    assert {row["name"]: row["turns"] for row in shown} == found


def test_scores_by_model_are_in_the_order_of_training(workspace):
    found = run_query(workspace, CANNED["scores_by_model"]).to_pylist()
    assert [(r["model"], r["mean_score"]) for r in found] == [("base", 0.5), ("M0", 0.625), ("M1", 0.875)]
    assert found[1]["stderr"] == pytest.approx(0.125)  # (0.5, 1, 0.5, 0.5): sd 0.25, n 4


def test_several_samples_of_one_prompt_are_not_several_prompts(tmp_path):
    rows = [
        {"conversation_id": prompt, "sample": sample, "measure": "gold", "score": score, "prompt": []}
        | {"completion": "", "tokens": 1}
        for prompt, scores in {"a": (0, 1), "b": (1, 1)}.items()
        for sample, score in enumerate(scores)
    ]
    workspace = Workspace(tmp_path)

    def build(outputs):
        outputs["runs/x/base/eval"].table(EVALUATION).write_rows(rows)

    workspace.run("eval", ["runs/x/base/eval"], build, options={})
    (found,) = run_query(workspace, CANNED["scores_by_model"]).to_pylist()
    assert (found["prompts"], found["mean_score"], found["stderr"]) == (2, 0.75, 0.25)


def test_turns_to_label_by_hand_are_each_feedback_turn_once_with_the_reply_before_it(workspace):
    rows = run_query(workspace, CANNED["to_label"]).to_pylist()
    assert len(rows) == 10 == len({(row["conversation_id"], row["turn"]) for row in rows})
    (row,) = [row for row in rows if (row["conversation_id"], row["turn"]) == ("c1", 4)]
    assert (row["label"], row["reply"], row["message"]) == ("", "reply 1", "Thank you, perfect.")


@pytest.mark.parametrize("name", CANNED)
def test_a_canned_query_runs_or_says_what_is_to_be_made(tmp_path, name):
    (tmp_path / "empty").mkdir()
    try:
        assert run_query(Workspace(tmp_path / "empty"), CANNED[name]).num_rows == 0
    except UserError as error:
        assert "`make " in str(error) and "current_labels" not in str(error)
    data = Workspace(tmp_path / "data")
    build_data(data)
    if name == "scores_by_model":
        with pytest.raises(UserError, match=r"has no evaluations yet: `make eval`"):
            run_query(data, CANNED[name])
    else:
        assert run_query(data, CANNED[name]).num_rows > 0


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM nowhere", "nowhere does not exist"),
        ("SELECT rubish FROM dsat", "rubish"),
        ("SELECT 'x'::INTEGER", "Could not convert"),
        ("FROM preferences", "make convert SOURCE=ultrafeedback"),
    ],
)
def test_a_mistake_is_explained_with_the_views_there_are(workspace, sql, message):
    with pytest.raises(UserError, match=message) as caught:
        run_query(workspace, sql)
    assert "conversations, current_labels, dropped" in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "COPY dsat TO '{file}'",
        "WITH x AS (COPY (SELECT 1) TO '{file}') SELECT * FROM x",
        "EXPLAIN ANALYZE COPY dsat TO '{file}'",
        "SELECT 1; COPY dsat TO '{file}'",
        "EXPORT DATABASE '{file}'",
        "ATTACH '{file}'",
        "",
    ],
)
def test_a_query_cannot_write_even_inside_the_workspace(workspace, sql):
    target = workspace.root / "dsat" / "written"
    with pytest.raises(UserError):
        run_query(workspace, sql.format(file=target))
    assert not target.exists()


def test_the_word_copy_alone_forbids_nothing(workspace):
    found = run_query(workspace, "SELECT 'copy' AS copy -- copy it")
    assert found.to_pylist() == [{"copy": "copy"}]


def test_a_missing_workspace_is_said(tmp_path):
    with pytest.raises(UserError, match="no workspace"):
        run_query(Workspace(tmp_path / "nowhere"), "SELECT 1")


def test_limit_bounds_the_rows_that_are_read(workspace):
    assert run_query(workspace, "SELECT i FROM range(1000000000) t(i)", limit=3)["i"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize("ending", ["csv", "parquet", "json", "jsonl"])
def test_a_result_is_written_whole_and_read_back(workspace, tmp_path, ending):
    out = tmp_path / f"it's.{ending}"
    assert save_query(workspace, "SELECT conversation_id, turn FROM dsat ORDER BY ALL", out) == 4
    if ending == "csv":
        read = csv.read_csv(out).to_pylist()
    elif ending == "parquet":
        read = pq.read_table(out).to_pylist()
    elif ending == "json":
        read = json.loads(out.read_text())
    else:
        read = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["conversation_id"], row["turn"]) for row in read] == [
        ("c1", 2),
        ("c3", 2),
        ("c4", 4),
        ("c5", 2),
    ]
    assert list(tmp_path.iterdir()) == [out]


def test_a_failing_query_leaves_the_old_file_alone(workspace, tmp_path):
    out = tmp_path / "out.csv"
    out.write_text("old")
    late = "SELECT CASE WHEN i < 400000 THEN i ELSE error('late') END FROM range(500000) t(i)"
    with pytest.raises(UserError, match="late"):
        save_query(workspace, late, out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_an_unknown_ending_or_folder_is_said(workspace, tmp_path):
    with pytest.raises(UserError, match=r"must end in one of \.csv"):
        save_query(workspace, "SELECT 1", tmp_path / "x.xlsx")
    with pytest.raises(UserError, match="no folder"):
        save_query(workspace, "SELECT 1", tmp_path / "no" / "x.csv")


def test_printing_shows_control_characters_instead_of_obeying_them(workspace):
    text = shown(workspace=workspace, sql="SELECT chr(27) || '[2Jred' || chr(8238) || 'gnp\n[bold]' AS v")
    assert r"\x1b[2Jred\u202egnp\n[bold]" in text


def test_printing_bounds_rows_cells_and_width(workspace):
    text = shown(
        workspace=workspace, sql="SELECT i, repeat('long ', 100000) AS v FROM range(100) t(i)", rows=5
    )
    assert max(map(len, text.splitlines())) <= 100
    assert len(text.splitlines()) < 12
    assert "the first 5 rows" in text
    assert "100 row" not in text


def test_two_columns_of_one_name_are_both_printed(workspace):
    text = shown(workspace=workspace, sql="SELECT 'left' AS v, 'right' AS v")
    assert "left" in text
    assert "right" in text


def test_numbers_stay_whole_where_the_terminal_is_narrow(workspace):
    sql = (
        "SELECT 'run' || repeat('x', 60) AS run, 12 AS iter, repeat('conversation ', 9) AS conversation_id, 3 AS turn, "
        "1234567 AS tokens_of_the_whole_prompt, 0.1234 AS share, repeat('detail ', 20) AS detail"
    )
    text = shown(workspace=workspace, sql=sql, width=80)
    assert max(map(len, text.splitlines())) <= 80
    (row,) = [line for line in text.splitlines() if "1,234,567" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert (cells[1], cells[3], cells[4], cells[5]) == ("12", "3", "1,234,567", "0.1234")
    assert cells[0].startswith("ru") and cells[0].endswith("…")


def test_the_head_of_a_column_of_numbers_folds_before_a_number_is_cut(workspace):
    names = [f"number_of_rows_of_kind_{at}" for at in range(6)]
    sql = "SELECT " + ", ".join(f"{10_000_000 + at} AS {name}" for at, name in enumerate(names))
    text = shown(workspace=workspace, sql=sql, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"10,000,00{at}" in text for at in range(6))


def test_no_column_vanishes_from_a_table_of_many_numbers_in_a_narrow_terminal(workspace):
    text = shown(workspace=workspace, sql="SELECT * FROM health LIMIT 1", width=80)
    assert max(map(len, text.splitlines())) <= 80
    (row,) = [line for line in text.splitlines() if "-2.5" in line]
    assert all(cell.strip() for cell in row.strip("│").split("│"))
