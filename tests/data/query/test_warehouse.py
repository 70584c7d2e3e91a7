import duckdb
import pyarrow.parquet as pq
import pytest

from drift_data import schema
from drift_data.query.warehouse import connect, find_current_labels, find_finished_folders, list_view_names
from drift_data.workspace import MANIFEST, UserError, Workspace
from tests.helpers.sample_workspace import CHATS, RUN, STEPS, build_data, sample


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return sample(tmp_path_factory.mktemp("warehouse"))


def rows(workspace, sql):
    with connect(workspace) as connection:
        return connection.execute(sql).fetchall()


def test_every_finished_table_has_its_view(workspace):
    with connect(workspace) as connection:
        names = list_view_names(connection)
        assert names == [
            "conversations", "current_labels", "dropped", "dropped_conversations", "dropped_dsat",
            "dropped_labels_local", "dropped_pairs", "dsat", "evaluations", "funnel", "health", "labels", "labels_local",
            "labels_simulated", "manifests", "metrics", "pairs", "rollouts", "sat", "seed",
        ]  # fmt: skip


def test_a_single_table_keeps_its_columns(workspace):
    with connect(workspace) as connection:
        for name, expected in {
            "conversations": schema.CONVERSATIONS, "dsat": schema.DSAT_ROWS, "sat": schema.SAT_ROWS,
            "seed": schema.SEED_ROWS, "labels_local": schema.LABEL_ROWS,
        }.items():  # fmt: skip
            columns = [row[0] for row in connection.execute(f"DESCRIBE {name}").fetchall()]
            added = ["labels_of"] if name.startswith("labels_") else []
            assert columns == added + expected.names


def test_views_over_several_folders_say_where_each_row_is_from(workspace):
    assert rows(workspace, "SELECT labels_of, count(*) FROM labels GROUP BY ALL ORDER BY 1") == [
        ("local", 9),
        ("simulated", 10),
    ]
    assert rows(workspace, "SELECT run, iter, count(*) FROM pairs GROUP BY ALL ORDER BY 2") == [
        (RUN, 0, 1),
        (RUN, 1, 3),
    ]
    assert rows(
        workspace, "SELECT run, model, iter, avg(score) FROM evaluations GROUP BY ALL ORDER BY 4"
    ) == [
        (RUN, "base", None, 0.5),
        (RUN, "M0", 0, 0.625),
        (RUN, "M1", 1, 0.875),
    ]
    assert rows(
        workspace, 'SELECT iter, count(*), max("rewards/margins") FROM metrics GROUP BY ALL ORDER BY 1'
    ) == [
        (0, STEPS, 1.0),
        (1, STEPS, 1.0),
    ]


def test_dropped_unites_all_tables_with_their_reasons(workspace):
    found = rows(
        workspace, 'SELECT "table", run, iter, reason, count(*) FROM dropped GROUP BY ALL ORDER BY 1, 4'
    )
    assert found == [
        ("conversations", None, None, "duplicate", 1),
        ("conversations", None, None, "empty", 1),
        ("dsat", None, None, "not the strongest", 1),
        ("labels/local", None, None, "unparsed answer", 1),
        ("pairs", RUN, 1, "leaks guidance", 1),
    ]


def test_funnel_counts_what_each_step_left(workspace):
    assert rows(workspace, "FROM funnel") == [
        ("rows read", None, None, len(CHATS) + 2),
        ("conversations", None, None, len(CHATS)),
        ("feedback turns", None, None, 10),
        ("SAT turns", None, None, 1),
        ("DSAT turns", None, None, 5),
        ("NEUTRAL turns", None, None, 3),
        ("DSAT examples", None, None, 4),
        ("SAT examples", None, None, 1),
        ("seed pairs", None, None, 1),
        ("pairs kept", RUN, 0, 1),
        ("rollouts", RUN, 1, 4),
        ("examples sampled", RUN, 1, 4),
        ("pairs kept", RUN, 1, 3),
    ]


def test_manifests_are_a_table_with_json_columns(workspace):
    found = rows(
        workspace, "SELECT rows_out, options->>'per_conversation' FROM manifests WHERE folder = 'dsat'"
    )
    assert found == [(4, "1")]
    scores = "SELECT (results->'gold'->>'mean')::DOUBLE FROM manifests WHERE stage = 'eval' ORDER BY 1"
    assert rows(workspace, scores) == [(0.5,), (0.625,), (0.875,)]


def test_wilson_interval_of_five_in_nine_is_the_textbook_one(workspace):
    # statsmodels.stats.proportion.proportion_confint(5, 9, method="wilson"), with z = 1.96
    low, high, none = rows(workspace, "SELECT wilson_low(5, 9), wilson_high(5, 9), wilson_low(0, 0)")[0]
    assert low == pytest.approx(0.26665, abs=1e-4)
    assert high == pytest.approx(0.81122, abs=1e-4)
    assert none is None


def test_an_unfinished_folder_is_not_seen(tmp_path):
    workspace = sample(tmp_path)
    for name in ("labels/local", f"runs/{RUN}/iter1/pairs", f"runs/{RUN}/iter1/model"):
        (workspace.path(name) / MANIFEST).unlink()
    assert rows(workspace, "SELECT DISTINCT labels_of FROM labels") == [("simulated",)]
    assert rows(workspace, "SELECT DISTINCT iter FROM pairs") == [(0,)]
    assert rows(workspace, "SELECT DISTINCT iter FROM metrics") == [(0,)]
    assert rows(workspace, """SELECT count(*) FROM dropped WHERE "table" IN ('labels/local', 'pairs')""") == [
        (0,)
    ]


def test_current_labels_are_those_that_were_mined_even_when_others_are_newer(tmp_path):
    workspace = Workspace(tmp_path)
    build_data(workspace)
    assert find_current_labels(workspace) == "labels/local"

    def relabel(build):
        build["labels/other"].table(schema.LABEL_ROWS)

    workspace.run("label", ["labels/other"], relabel, options={}, inputs=["conversations"])
    assert find_current_labels(workspace) == "labels/local"
    (workspace.path("dsat") / MANIFEST).unlink()
    assert find_current_labels(workspace) == "labels/other"
    assert rows(workspace, "SELECT count(*) FROM current_labels") == [(0,)]


def test_an_empty_workspace_has_no_table_and_no_error(tmp_path):
    workspace = Workspace(tmp_path)
    assert find_finished_folders(workspace) == []
    assert rows(workspace, "FROM funnel") == []
    assert rows(workspace, "SELECT reason FROM dropped") == []
    assert rows(workspace, "FROM manifests") == []


def test_odd_names_of_workspace_judge_and_run_are_quoted(tmp_path):
    workspace = sample(tmp_path / "it's [a] *wild* {place}?")

    def relabel(build):
        build["labels/open-ai'1"].table(schema.LABEL_ROWS)

    workspace.run("label", ["labels/open-ai'1"], relabel, options={}, inputs=["conversations"])
    with connect(workspace) as connection:
        assert '"labels_open-ai\'1"' in list_view_names(connection)
        assert connection.execute('SELECT count(*) FROM "labels_open-ai\'1"').fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM conversations").fetchone() == (len(CHATS),)


def test_a_name_that_is_a_pattern_of_another_workspace_reads_its_own_rows(tmp_path):
    build_data(Workspace(tmp_path / "work1"))
    pattern = Workspace(tmp_path / "work[1]")
    pattern.run("convert", ["conversations"], empty, options={})
    assert rows(pattern, "SELECT count(*) FROM conversations") == [(0,)]
    assert rows(Workspace(tmp_path / "work1"), "SELECT count(*) FROM conversations") == [(len(CHATS),)]


def empty(outputs):
    outputs["conversations"].table(schema.CONVERSATIONS)


def test_a_table_and_a_workspace_may_be_links_and_relative(tmp_path, monkeypatch):
    workspace = Workspace(tmp_path / "work")
    build_data(workspace)
    workspace.path("conversations").rename(tmp_path / "elsewhere")
    workspace.path("conversations").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(tmp_path / "work")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert rows(Workspace("../link"), "SELECT count(*) FROM conversations") == [(len(CHATS),)]


def test_a_broken_table_is_named(tmp_path):
    workspace = Workspace(tmp_path)
    build_data(workspace)
    workspace.shards("sat")[0].write_bytes(b"PAR1 but cut")
    with pytest.raises(UserError, match="The files of sat"):
        connect(workspace)


def test_nothing_outside_the_workspace_and_no_extension_is_reachable(workspace, tmp_path):
    secret = tmp_path / "secret.parquet"
    pq.write_table(workspace.read("sat"), secret)
    inside = workspace.root / ".." / secret.parent.name / secret.name
    with connect(workspace) as connection:
        for sql in (
            f"FROM read_parquet('{secret}')",
            f"FROM read_parquet('{inside}')",
            "FROM read_text('/etc/hostname')",
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            "FROM read_csv('https://example.org/x.csv')",
            f"ATTACH '{tmp_path}/x.db'",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SET enable_external_access = true",
        ):
            with pytest.raises(duckdb.Error, match=r"disabled|locked"):
                connection.execute(sql)
    assert list(tmp_path.iterdir()) == [secret]
