"""`make review` as a person uses it: the command as a process, a real browser, hands on the keyboard."""

import signal

import pytest

from tests.helpers.converted import rows
from tests.helpers.html_page import ATTACK
from tests.helpers.review_page import chromium, needs_chromium, press, reviewing, watched
from tests.helpers.review_sample import HASHED, LABELS, to_review
from tests.helpers.sample_workspace import WORDS, sample

pytestmark = [pytest.mark.slow, pytest.mark.browser, needs_chromium]


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser):
    with watched(browser) as page:
        yield page


def table(workspace, name="labels/human-ann"):
    return {(row["conversation_id"], row["turn"]): row["label"] for row in rows(workspace, name)}


def test_turns_reviewed_by_keyboard_are_still_there_after_a_reload_and_a_kill(tmp_path, page):
    """The judge says D N D S N D in the order of the logs; the person D D D S N N: κ is 1/3 and 5/11."""
    workspace = to_review(tmp_path)
    options = ("--labels", "test", "--reviewer", "Ann", "--filter", "order=log")
    with reviewing(workspace, *options) as (address, process):
        page.goto(address)
        assert page.locator("#judged").inner_text() == "DSAT"
        assert page.locator("mark").inner_text() == "message 2 of a"  # the evidence, whatever its white space
        for key, done in (("a", 1), ("d", 2), ("Enter", 3), ("s", 4), ("n", 5), ("n", 6)):
            press(page, key)
            assert page.locator("#progress").inner_text() == f"{done} of 6 reviewed"
        assert "Nothing left to show" in page.locator("main").inner_text()
        said = dict(zip(LABELS, ("DSAT", "DSAT", "DSAT", "SAT", "NEUTRAL", "NEUTRAL"), strict=True))
        assert table(workspace) == said
        page.reload()
        assert page.locator("#progress").inner_text() == "6 of 6 reviewed"
        # DSAT or not: agreement 4/6, by chance 1/2. Three labels: 4/6, by chance (3·3 + 1·1 + 2·2) / 36 = 14/36
        assert page.locator("#every-dsat").inner_text() == "0.33"
        assert page.locator("#every-three").inner_text() == f"{(24 - 14) / (36 - 14):.2f}" == "0.45"
        assert page.locator("#kappa").inner_text() == "0.33"
        process.send_signal(signal.SIGKILL)
        process.wait()
    with reviewing(workspace, *options) as (address, process):
        page.goto(address)
        assert page.locator("#progress").inner_text() == "6 of 6 reviewed"
        press(page, "u")
        assert page.locator("#notice").inner_text() == "Taken back: NEUTRAL."
        assert page.locator("#progress").inner_text() == "5 of 6 reviewed"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    del said["d", 4]
    assert table(workspace) == said


def test_signs_refusal_folds_filters_and_help_have_keys(tmp_path, page):
    workspace = to_review(tmp_path)
    with reviewing(workspace, "--labels", "test", "--reviewer", "ann", "--against", "other") as (address, _):
        page.goto(f"{address}&order=log")
        page.keyboard.press("Shift+1")  # Gratitude
        page.keyboard.press("2")  # Revision, which the judge saw: not any more
        for _ in range(3):
            page.keyboard.press("r")  # not said → no refusal → a refusal → rightly
        press(page, "s")
        (row,) = rows(workspace, "labels/human-ann")
        assert sorted(item["name"] for item in row["items"]) == ["Gratitude", "Style"]
        assert (row["refusal"], row["correct_refusal"]) == (True, True)
        page.keyboard.press("c")
        assert page.locator("details.context:not([open])").count() == 0
        page.keyboard.press("?")
        assert page.locator("dialog").is_visible()
        page.keyboard.press("d")  # decides nothing while the keys are explained
        page.keyboard.press("Escape")
        assert not page.locator("dialog").is_visible() and len(rows(workspace, "labels/human-ann")) == 1
        page.keyboard.press("/")
        page.keyboard.type("disagreements")
        with page.expect_navigation():
            page.keyboard.press("Enter")
        assert "order=disagreements" in page.url
        assert page.locator(".judge").inner_text().count("says") == 2
        here = page.url
        press(page, "j")
        press(page, "k")
        assert page.locator(".about").inner_text() and "order=disagreements" in page.url and page.url != here


def test_one_press_decides_one_turn_however_long_the_key_is_held(tmp_path, page):
    workspace = to_review(tmp_path)
    with reviewing(workspace, "--labels", "test", "--reviewer", "ann") as (address, _):
        page.goto(address)
        page.wait_for_timeout(250)
        with page.expect_navigation():
            page.keyboard.down("s")
        for _ in range(5):
            page.keyboard.down("s")  # what a held key sends
        page.keyboard.up("s")
        page.wait_for_timeout(300)
        assert table(workspace) == {HASHED[0]: "SAT"}


def test_a_key_that_was_meant_for_the_page_before_decides_nothing(tmp_path, page):
    workspace = to_review(tmp_path)
    page.add_init_script("performance.now = () => 1000")  # the first moment of the page goes on for ever
    with reviewing(workspace, "--labels", "test", "--reviewer", "ann") as (address, _):
        page.goto(address)
        page.keyboard.press("s")
        page.wait_for_timeout(300)
        assert page.locator("#progress").inner_text() == "0 of 6 reviewed"
        assert workspace.manifest("labels/human-ann") is None


def test_a_blind_review_shows_the_judge_after_the_decision_only(tmp_path, page):
    workspace = to_review(tmp_path)
    with reviewing(workspace, "--labels", "test", "--reviewer", "ann", "--blind") as (address, _):
        page.goto(address)
        assert page.locator("#judged").inner_text() == "hidden until you have decided"
        page.wait_for_timeout(250)
        page.keyboard.press("a")  # there is nothing to accept
        press(page, "n")
        press(page, "k")
        assert page.locator("#judged").inner_text() == LABELS[HASHED[0]]
        assert table(workspace) == {HASHED[0]: "NEUTRAL"}


def test_hostile_text_is_shown_as_text_and_pushes_nothing_aside(tmp_path, page):
    words = {**WORDS, "DSAT": ATTACK + "W" * 5_000 + " " + "z\u0300\u0301\u0302" * 500}
    workspace = sample(tmp_path / "work", run=False, words=words)
    with reviewing(workspace, "--labels", "local", "--reviewer", "ann", "--filter", "label=DSAT") as (
        address,
        _,
    ):
        page.goto(address)
        assert "<script>alert(1)</script>" in page.locator("#message").inner_text()
        assert "\u202e" not in page.content()
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_judged_turn_and_the_decision_are_in_sight_under_long_texts(tmp_path, page):
    said = {("a", at): f"line {at}\n" * 200 for at in range(6)}
    workspace = to_review(tmp_path, said)
    with reviewing(workspace, "--labels", "test", "--reviewer", "ann", "--filter", "order=log") as (
        address,
        _,
    ):
        page.goto(address)
        for inside in ("#message", "button.accept"):
            box = page.locator(inside).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= 800
