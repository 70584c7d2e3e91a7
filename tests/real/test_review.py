"""The review page on the real conversations of `../shared/data/wildchat`, in a real browser, by keyboard."""

import pytest

from drift_data.calibrate.agreement import measure_agreement
from drift_data.judge.local import LocalJudge
from drift_data.judge.options import Thresholds
from drift_data.judge.rubric import load_rubric
from drift_data.judge.stage import label
from drift_data.labels.reviewer import make_reviewer
from drift_data.review.selection import parse_filter
from drift_data.review.session import ReviewOptions, ReviewSession
from drift_data.workspace import Workspace
from pipelines.stages.calibrate import calibrate
from tests.helpers.converted import converted, rows
from tests.helpers.real_chats import LOGS, needs_data
from tests.helpers.review_page import chromium, needs_chromium, press, reviewing, watched

pytestmark = [
    pytest.mark.real,
    needs_chromium,
    needs_data,
]
TABLE = "labels/human-ann"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = converted(tmp_path_factory.mktemp("real"), "wildchat", LOGS)
    label(workspace, LocalJudge(), Thresholds())
    return workspace


def test_ten_turns_reviewed_by_keyboard_are_kept_and_flow_into_calibrate(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        reviewing(workspace, "--reviewer", "ann") as (address, _),
        chromium() as browser,
        watched(browser) as page,
    ):
        page.goto(address)
        judged = []
        for key in "aadnsaaaaa":
            judged.append(page.locator("#judged").inner_text())
            press(page, key)
        page.reload()
        assert page.locator("#progress").inner_text() == "10 of 1,016 reviewed"
        found = measure_agreement(workspace, "labels/local", TABLE)
        assert found.turns == 10 and found.kappa is not None and found.kappa_dsat is not None
        assert page.locator("#random-three").inner_text() == f"{found.kappa:.2f}"
        assert page.locator("#random-dsat").inner_text() == f"{found.kappa_dsat:.2f}"
        assert page.locator("#kappa").inner_text() == f"{found.kappa_dsat:.2f}"
    said = [row["label"] for row in rows(workspace, TABLE)]
    assert said == [*judged[:2], "DSAT", "NEUTRAL", "SAT", *judged[5:]]
    calibrate("human:ann", labels="local", work=workspace.root, overrides=["offline=false"])
    assert "10 of 10 turns of labels/human-ann were decided with the judge's label" in " ".join(
        capsys.readouterr().out.split()
    )


def test_every_real_turn_can_be_shown_with_its_evidence_marked(workspace: Workspace) -> None:
    session = ReviewSession(workspace, ReviewOptions("labels/local", make_reviewer("bob"), load_rubric()))
    unmarked = 0
    for number in range(len(session.queue)):
        turn = session.load_turn(number, parse_filter("order=log"))
        assert turn.view.message.role == "user" and turn.view.reply.role == "assistant"
        unmarked += bool(turn.judged["evidence"]) and not turn.view.evidence_found
    assert (len(session.queue), unmarked) == (1_016, 0)
    session.close()
