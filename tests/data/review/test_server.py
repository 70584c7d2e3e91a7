"""The pages over HTTP: whom they answer, what they keep, and that text from logs stays text."""

import errno
import re
import socket

import pytest
from starlette.testclient import TestClient

from drift_data.review.selection import parse_filter
from drift_data.review.serve import serve_review
from drift_data.review.server import ReviewPages, format_key, parse_key
from drift_data.review.turn_view import MAX_CHARACTERS, find_evidence, make_turn_view
from drift_data.schema import CONVERSATIONS
from drift_data.workspace import UserError, Workspace
from tests.helpers.converted import rows
from tests.helpers.html_page import ATTACK, Page
from tests.helpers.quality_sample import turn, write_labels
from tests.helpers.review_sample import build_conversations, build_labels, session, to_review

KEY, COOKIE = "secret", "drift_review_1"
TABLE = "labels/human-ann"


class Reader:
    """A browser of the test's own: loads pages, and sends their forms back."""

    def __init__(self, session, start="order=log", let_in=True):
        self.session = session
        app = ReviewPages(session, parse_filter(start)).make_app(KEY, COOKIE)
        self.client = TestClient(app, base_url="http://127.0.0.1:1")
        if let_in:
            self.client.get(f"/?key={KEY}")

    def form(self, html, action="/decide"):
        """Return the fields of a form as a browser would send them, without a button."""
        inside = re.search(rf'<form[^>]*action="{action}".*?</form>', html, re.DOTALL).group()
        page, fields = Page(inside), {}
        for tag, attributes in page.elements:
            if tag == "input" and ("checked" in attributes or attributes.get("type") == "hidden"):
                fields.setdefault(attributes["name"], []).append(attributes["value"])
        chosen = re.search(r'<option value="([^"]*)" selected', inside)
        return {**fields, "refusal": [chosen.group(1) if chosen else ""]}

    def decide(self, label, at="", **more):
        """Load a page and press a button on it."""
        html = self.client.get(f"/?order=log{at}").text
        return self.client.post("/decide", data={**self.form(html), "label": label, **more})


@pytest.fixture
def workspace(tmp_path):
    return to_review(tmp_path)


@pytest.fixture
def ann(workspace):
    ann = session(workspace)
    yield ann
    ann.close()


@pytest.fixture
def reader(ann):
    return Reader(ann)


def test_only_a_browser_that_was_given_the_address_is_let_in(ann):
    stranger = Reader(ann, let_in=False).client
    for path in ("/", "/?key=wrong", "/review.js", "/review.css", "/nothing"):
        answer = stranger.get(path)
        assert answer.status_code == 403 and "message" not in answer.text
    assert stranger.post("/decide", data={}).status_code == 403
    invited = stranger.get(f"/?key={KEY}&label=DSAT", follow_redirects=False)
    assert (invited.status_code, invited.headers["location"]) == (303, "/?label=DSAT")
    cookie = invited.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}={KEY};") and "HttpOnly" in cookie and "SameSite=lax" in cookie
    assert stranger.get("/").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:1", "[::1]:1", ""])
def test_a_foreign_name_that_leads_here_is_refused(reader, host):
    assert reader.client.get("/", headers={"host": host}).status_code == 400


def test_nothing_foreign_may_be_loaded_framed_or_kept(reader):
    for path in ("/", "/review.js", "/nothing"):
        headers = reader.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in policy
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")


def test_a_decision_is_saved_and_leads_to_the_next_turn(workspace, reader):
    answer = reader.decide("accept")
    assert answer.status_code == 200 and "Saved: DSAT; the same as the judge." in answer.text
    assert "message 4 of a" in Page(answer.text).text  # the judged message of the turn after it
    (row,) = rows(workspace, TABLE)
    assert (row["conversation_id"], row["turn"], row["label"]) == ("a", 2, "DSAT")
    assert [item["name"] for item in row["items"]] == ["Revision", "Style"]


def test_signs_below_the_threshold_are_not_ticked_for_the_person_who_accepts_neutral(workspace):
    write_labels(workspace, [turn("a", 2, 0, 4, "Style"), turn("a", 4, 0, 4, "Style", "Revision")])
    ann = session(workspace)
    reader = Reader(ann)
    assert "Saved: NEUTRAL; the same as the judge." in reader.decide("accept").text
    reader.decide("accept", at="&at=4:a", item=["Style"])  # ticked by the person
    found = {row["turn"]: [item["name"] for item in row["items"]] for row in rows(workspace, TABLE)}
    assert found == {2: [], 4: ["Style"]}
    ann.close()


def test_signs_and_refusal_of_the_form_are_saved(workspace, reader):
    reader.decide("SAT", item=["Gratitude", "Nonsense"], refusal="deserved")
    (row,) = rows(workspace, TABLE)
    assert [item["name"] for item in row["items"]] == ["Gratitude"]
    assert (row["refusal"], row["correct_refusal"]) == (True, True)


def test_undo_over_http_shows_the_turn_again(workspace, reader):
    answer = reader.decide("SAT")
    undone = reader.client.post("/undo", data=reader.form(answer.text, "/undo"))
    assert "Taken back: SAT." in undone.text and "message 2 of a" in Page(undone.text).text
    assert rows(workspace, TABLE) == []
    assert reader.client.post("/undo", data=reader.form(answer.text, "/undo")).status_code == 409


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"token": "guessed"}, 403),
        ({"token": []}, 403),
        ({"label": "GOOD"}, 400),
        ({"label": []}, 400),
        ({"at": "nobody"}, 400),
        ({"refusal": "perhaps"}, 400),
        ({"selection": []}, 400),
        ({"selection": "order=hardest"}, 409),
        ({"judge_label": "<script>"}, 400),
        ({"shown": "7"}, 400),
        ({"at": "6:a"}, 409),
        ({"text": "of another conversation"}, 409),
        ({"item": "x" * 70_000}, 400),
    ],
)
def test_a_form_that_is_not_of_this_page_saves_nothing(workspace, reader, change, status):
    form = reader.form(reader.client.get("/").text)
    answer = reader.client.post("/decide", data={**form, "label": "SAT", **change})
    assert answer.status_code == status, answer.text
    assert workspace.manifest(TABLE) is None and reader.session.journal.find_last("ann") is None


def test_a_page_that_was_read_before_the_logs_were_made_anew_saves_nothing(workspace, reader):
    form = reader.form(reader.client.get("/").text)
    build_conversations(workspace, {("a", 2): "another message"})
    build_labels(workspace)
    answer = reader.client.post("/decide", data={**form, "label": "SAT"})
    assert answer.status_code == 409 and "changed since you read it" in answer.text
    assert "loaded again" in reader.client.get("/").text


def test_while_tables_are_being_made_the_page_says_so_and_comes_back(workspace, reader):
    build_conversations(workspace, {("a", 2): "another message"})
    waiting = reader.client.get("/")
    assert waiting.status_code == 503 and "Run `make label` again" in Page(waiting.text).text
    build_labels(workspace)
    assert "another message" in reader.client.get("/").text


def test_a_full_disk_is_told_and_nothing_counts_as_reviewed(reader, monkeypatch):
    def full(decision):
        raise OSError(errno.ENOSPC, "database or disk is full", "review.sqlite")

    monkeypatch.setattr(reader.session.journal, "add", full)
    answer = reader.decide("SAT")
    assert answer.status_code == 507 and "NOT SAVED: review.sqlite" in answer.text
    assert reader.session.reviewed == {}


def test_the_judge_is_hidden_until_the_turn_is_decided(workspace):
    ann = session(workspace, blind=True, against="labels/other")
    reader = Reader(ann)
    html = reader.client.get("/").text
    page = html[html.index("<main") :]
    assert "hidden until you have decided" in page and "said so" not in page and "<mark>" not in page
    assert not re.search(r'name="item"[^>]* checked|value="accept"', page)
    answer = reader.decide("SAT")
    assert "Saved: SAT." in answer.text and "the judge." not in answer.text[: answer.text.index("<main")]
    seen = reader.client.get("/?order=log&at=2:a").text
    assert "said so" in seen and "<mark>" in seen
    assert rows(workspace, TABLE)[0]["reason"] == "test:1 said DSAT; decided blind; order=log"
    shown = reader.client.get("/?order=uncertain").text  # which tells, so nothing is hidden
    assert "hidden until" not in shown
    ann.close()


def test_text_from_logs_cannot_act(tmp_path):
    """Messages, ids, items, reasons, evidence and languages are somebody else's text."""
    workspace = Workspace(tmp_path)
    name = f"id {ATTACK}"
    write_hostile(workspace, name)
    ann = session(workspace, against="labels/other")
    reader = Reader(ann)
    html = reader.client.get("/").text
    page = Page(html)
    shown = {tag for tag, _ in page.elements} - {"script"}
    assert not shown & {"img", "svg", "style", "iframe", "object", "base"}
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"src": "/review.js", "defer": None}]
    for _tag, attributes in page.elements:
        assert not [given for given in attributes if given.startswith("on")]
        assert "style" not in attributes
        links = {attributes[given] for given in ("href", "action", "src") if given in attributes}
        ours = ("/?", "/review.", "/decide", "/undo", "#", "data:,")
        assert all(link == "/" or link.startswith(ours) for link in links)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f]", page.text)
    assert (
        "\\u202egpj.exe" in page.text and "<script>alert(1)</script>" in page.text and "{{ 7 * 7 }}" in html
    )
    answer = reader.decide("accept")
    assert answer.status_code == 200 and [row["conversation_id"] for row in rows(workspace, TABLE)] == [name]
    ann.close()


def write_hostile(workspace, name):
    def build(outputs):
        messages = [{"role": ("user", "assistant")[at % 2], "content": f"{at} {ATTACK}"} for at in range(6)]
        row = {"conversation_id": name, "source": "x", "language": ATTACK, "model": ATTACK}
        outputs["conversations"].table(CONVERSATIONS).write_rows([{**row, "messages": messages}])

    workspace.run("convert", ["conversations"], build, options={})
    given = {"reason": ATTACK, "evidence": f"not there {ATTACK}", "judge": ATTACK}
    write_labels(workspace, [turn(name, 2, 0, 9, ATTACK, **given)])
    write_labels(workspace, [turn(name, 2, 9, 0)], "labels/other")


def test_a_huge_message_makes_no_huge_page(tmp_path):
    workspace = to_review(tmp_path, {("a", at): "word " * 1_000_000 for at in (0, 1, 2, 3)})
    ann = session(workspace)
    html = Reader(ann).client.get("/").text
    assert len(html) < 200_000 and f"{5_000_000 - MAX_CHARACTERS:,} more characters are not shown" in html
    ann.close()


def test_a_turn_or_selection_that_is_not_there_is_said(reader):
    for at in ("9:z", "9" * 5_000 + ":a", "a", ""):
        missing = reader.client.get(f"/?order=log&at={at}")
        assert missing.status_code == 404 and "There is no such turn" in missing.text
    assert "Nothing to review" in reader.client.get("/?language=Klingon").text
    assert reader.client.get("/?order=hardest").status_code == 503
    assert reader.client.get("/?order=disagreements").status_code == 503


def test_a_port_that_is_taken_is_told(ann):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"PORT={port} cannot be used: Address already in use"):
            serve_review(ann, parse_filter(""), port, ready=print)


@pytest.mark.parametrize("key", [("a", 2), ("ü:%/&=#\u202e\0 ", 12), ("", 0)])
def test_a_key_survives_its_address(key):
    assert parse_key(format_key(key)) == key and format_key(key).isascii()


def test_evidence_is_found_whatever_its_white_space_and_case_and_marked():
    message = "Well.\nNo,   that is WRONG. Again!"
    assert message[slice(*find_evidence(message, "“no, that is wrong”"))] == "No,   that is WRONG"
    assert find_evidence(message, "something else") is None and find_evidence(message, "…") is None
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
    shown = make_turn_view([*chat, {"role": "user", "content": message}], 2, "that is wrong")
    assert [(piece.text, piece.marked) for piece in shown.message.head] == [
        ("Well.\nNo,   ", False),
        ("that is WRONG", True),
        (". Again!", False),
    ]


def test_messages_far_before_the_turn_are_folded_and_counted():
    chat = [{"role": ("user", "assistant")[at % 2], "content": f"m{at}"} for at in range(40)]
    shown = make_turn_view(chat, 36, None)
    assert [said.summary for said in shown.before] == ["m32", "m33", "m34"]
    assert [said.summary for said in shown.earlier] == [f"m{at}" for at in range(12, 32)]
    assert shown.left_out == 12 and [said.summary for said in shown.after] == ["m37", "m38"]
