import shutil

import pytest

from drift_data.report.options import ReportOptions
from drift_data.report.page import write_report
from drift_data.schema import EVALUATION
from drift_data.workspace import MANIFEST, UserError, Workspace
from tests.helpers import sample_workspace
from tests.helpers.html_page import ATTACK, Page, assert_inert
from tests.helpers.sample_workspace import RUN, metrics, sample


def page_of(workspace, tmp_path, **kwargs):
    html = write_report(workspace, RUN, tmp_path / "report.html", **kwargs).read_text(encoding="utf-8")
    return Page(html), html


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    recipe = {"name": "demo", "loop": {"train": {"beta": 0.1}}}
    return page_of(sample(folder / "work"), folder, recipe=recipe)


def test_the_page_needs_nothing_but_itself(shown):
    assert_inert(*shown)


def test_the_funnel_shows_each_step_with_its_share(shown):
    page, _ = shown
    assert page.row("rows read")[1] == "8"
    assert page.row("conversations")[1:4] == ["6", "75.0 %", "rows read"]
    assert page.row("DSAT turns")[1:4] == ["5", "50.0 %", "feedback turns"]
    assert page.row("DSAT examples")[1:4] == ["4", "80.0 %", "DSAT turns"]
    assert page.row("M0: pairs kept")[1:4] == ["1", "100.0 %", "seed pairs"]
    assert page.row("M1: pairs kept")[1:4] == ["3", "75.0 %", "examples sampled"]


def test_labels_are_shown_by_judge_and_against_the_truth(shown):
    page, _ = shown
    assert page.row("local", "local:words")[2:6] == ["9", "11.1 %", "55.6 %", "33.3 %"]
    assert page.row("simulated", "simulated:truth")[2:6] == ["10", "10.0 %", "50.0 %", "40.0 %"]
    # of 5 turns labelled DSAT 4 are, and of 5 that are 4 were found
    assert page.row("DSAT", "5") == ["DSAT", "5", "5", "4", "80.0 %", "80.0 %", "80.0 %"]
    assert page.row("Revision")[:4] == ["Revision", "DSAT", "5", "55.6 %"]
    assert page.row("gpt-3.5") == ["gpt-3.5", "4", "3", "75.0 %", "30.1 – 95.4"]


def test_complaints_stand_with_request_and_reply(shown):
    page, _ = shown
    assert page.text.count("No, that is wrong. Say it again.") >= 4
    assert "Name three fruits." in page.text
    assert "reply 0" in page.text


def test_pairs_scores_drops_and_provenance_have_their_numbers(shown):
    page, _ = shown
    assert page.row("M1", "drift") == ["M1", "drift", "3", "12", "12", "10", "10"]
    assert page.row("gold", "base")[2:5] == ["0.500", "0.100", "4"]
    assert page.row("gold", "M1")[2:5] == ["0.875", "0.100", "4"]
    assert page.row("dsat", "not the strongest") == ["dsat", "not the strongest", "1"]
    assert page.row("M1: pairs", "leaks guidance")[2] == "1"
    assert page.row("labels/local", "label")[2:4] == ["judge: local:words", "9"]
    assert page.row("loop.train.beta") == ["loop.train.beta", "0.1"]


def test_scores_of_held_out_pairs_alone_are_shown(tmp_path):
    workspace = sample(tmp_path / "work")  # as of real logs, which have no gold reward
    for folder in workspace.path(f"runs/{RUN}").glob("*/eval"):
        shutil.rmtree(folder)
    name = f"runs/{RUN}/iter1/heldout"

    def build(outputs):
        outputs[name].table(EVALUATION)
        outputs[name].results = {"margin": {"mean": 0.25, "stderr": 0.05, "n": 4}}

    workspace.run("eval", [name], build, options={})
    page, _ = page_of(workspace, tmp_path)
    assert page.row("held-out margin", "M1")[2:5] == ["0.250", "0.050", "4"]


def test_every_chart_says_in_words_what_it_shows(shown):
    page, _ = shown
    charts = [attributes["alt"] for tag, attributes in page.elements if tag == "img"]
    assert len(charts) == 6 + 2 + 4 + 1  # curves, lengths of two rounds, health, scores
    assert all(len(words) > 20 for words in charts)
    assert "Margin over 20 training steps: margin from 0.25 to 0.85" in charts
    assert "gold by model: base 0.500, M0 0.625, M1 0.875" in charts


def test_health_stands_by_iteration_with_its_alarms(shown):
    page, _ = shown
    assert page.row("pairs filtered out") == ["pairs filtered out", "0.0 %", "25.0 %"]
    assert page.row("by reason") == ["by reason", "–", "leaks guidance 1"]
    assert page.row("their KL to the base, nats a token")[1:] == ["–", "0.25 ± 0.01"]
    assert page.row("cut for length")[1:] == ["–", "25.0 %"]
    assert page.row("replies cut for length") == ["replies cut for length", "M0", "0.25", "> 0.1", "▲ alarm"]
    assert page.row("pairs filtered out", "M1 pairs")[2:] == ["0.25", "> 0.5", "✓ fine"]


def test_replies_of_all_models_stand_side_by_side(shown):
    page, _ = shown
    articles = page.text.split("Replies side by side")[1].split("Evaluation")[0]
    assert articles.count("Name two cities.") == 4
    for model in ("base", "M0", "M1"):
        assert articles.count(f"{model}Rome, Oslo") == 4


def test_without_an_evaluation_replies_of_the_training_stand_there(tmp_path):
    workspace = sample(tmp_path / "work")
    for model in ("base", "iter0", "iter1"):
        (workspace.path(f"runs/{RUN}/{model}/eval") / MANIFEST).unlink()
    page, _ = page_of(workspace, tmp_path)
    articles = page.text.split("Replies side by side")[1].split("No model is measured yet")[0]
    assert "Prompts of the training" in articles
    assert articles.count("M0 guidedbetter reply") == 4


def test_every_table_has_headers_with_a_scope(shown):
    page, _ = shown
    headers = [attributes for tag, attributes in page.elements if tag == "th"]
    assert headers
    assert all(attributes.get("scope") in ("col", "row") for attributes in headers)


def test_hostile_logs_stay_text(tmp_path, monkeypatch):
    chats = [(name, ATTACK, ATTACK, labels) for name, _, _, labels in sample_workspace.CHATS]
    monkeypatch.setattr(sample_workspace, "CHATS", chats)
    words = dict.fromkeys(("DSAT", "SAT", "NEUTRAL"), ATTACK)
    page, html = page_of(sample(tmp_path / "work", words=words), tmp_path)
    assert_inert(page, html)
    assert "<script>alert(1)</script>" in page.text  # shown, not run
    assert "{{ 7 * 7 }}" in page.text
    assert r"\u202egpj.exe\u2066\x1b[2J\x00" in page.text


def test_a_message_of_five_megabytes_does_not_swell_the_page(tmp_path):
    words = dict.fromkeys(("DSAT", "SAT", "NEUTRAL"), "<b>" * 1_700_000)
    page, html = page_of(
        sample(tmp_path / "work", words=words), tmp_path, options=ReportOptions(characters=100)
    )
    assert len(html) < 300_000
    assert_inert(page, html)
    assert "more characters)" in page.text


def test_a_run_that_has_not_begun_is_said(tmp_path):
    page, html = page_of(sample(tmp_path / "work", run=False), tmp_path)
    assert_inert(page, html)
    assert f"Run {RUN} has no pair yet. make iter N=1 makes it." in page.text
    assert f"Run {RUN} has trained nothing yet." in page.text
    assert "No model is measured yet. make eval makes it." in page.text
    assert page.row("DSAT examples")[1] == "4"


def test_an_empty_workspace_gives_a_page_that_says_so(tmp_path):
    (tmp_path / "work").mkdir()
    page, html = page_of(Workspace(tmp_path / "work"), tmp_path)
    assert_inert(page, html)
    for command in ("make convert", "make label", "make seed", "make iter N=1", "make eval"):
        assert f"{command} makes it." in page.text


@pytest.mark.parametrize(
    "missing", ["conversations", "labels/local", "dsat", "seed", f"runs/{RUN}/iter1/pairs"]
)
def test_any_single_folder_may_be_missing(tmp_path, missing):
    workspace = sample(tmp_path / "work")
    (workspace.path(missing) / MANIFEST).unlink()
    assert_inert(*page_of(workspace, tmp_path))


def test_another_run_of_the_workspace_stays_out(tmp_path):
    workspace = sample(tmp_path / "work")
    sample_workspace.build_run(workspace, run="second-run", rows=metrics(1, steps=33))
    page, _ = page_of(workspace, tmp_path)
    assert "second-run" not in page.text
    assert "Margin over 20 training steps" in str(page.elements)


def test_a_missing_workspace_is_said(tmp_path):
    with pytest.raises(UserError, match="no workspace"):
        write_report(Workspace(tmp_path / "nowhere"), RUN, tmp_path / "report.html")


def test_a_failed_report_leaves_the_old_page(tmp_path, monkeypatch):
    workspace = sample(tmp_path / "work", run=False)
    out = tmp_path / "report.html"
    out.write_text("old")

    def full(handle):
        raise OSError("disk full")

    monkeypatch.setattr("drift_data.workspace.atomic.os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_report(workspace, RUN, out)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "work"]
