"""The journal: what was decided is on the disk at once, nothing is overwritten, two processes do not get in each other's way."""

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest

from drift_data.review.journal import Decision, Journal
from drift_data.workspace import UserError


def decision(conversation="a", label="DSAT", **more):
    values = {
        "reviewer": "ann",
        "conversation_id": conversation,
        "turn": 2,
        "label": label,
        "items": ("Revision",),
        "refusal": None,
        "correct_refusal": None,
        "labels": "labels/local",
        "judge": "local:1",
        "judge_label": "SAT",
        "selection": {"order": "random"},
        "random": True,
        "blind": False,
        "text": "digest",
        "conversations": "made",
    }
    return Decision(**{**values, **more})


@pytest.fixture
def journal(tmp_path):
    journal = Journal(tmp_path / "work" / "review.sqlite")
    yield journal
    journal.close()


def labels(journal, reviewer="ann"):
    return {turn.key[0]: turn.last.label for turn in journal.read_reviewed(reviewer)}


def test_a_decision_comes_back_as_it_was_given(journal):
    given = decision("ü\0\u202e'; DROP TABLE decisions", refusal=True, correct_refusal=False, blind=True)
    kept = journal.add(given)
    assert kept == replace(given, id=1)
    assert [turn.last for turn in journal.read_reviewed("ann")] == [kept]
    assert journal.read_reviewed("bob") == [] and journal.find_last("bob") is None


def test_the_last_decision_on_a_turn_counts_and_earlier_ones_stay_in_the_file(journal):
    journal.add(decision("a", "DSAT"))
    journal.add(decision("b", "SAT"))
    journal.add(decision("a", "NEUTRAL"))
    assert labels(journal) == {"b": "SAT", "a": "NEUTRAL"}  # in the order of the last decisions
    rows = sqlite3.connect(journal.path).execute("SELECT conversation_id, label FROM decisions ORDER BY id")
    assert rows.fetchall() == [("a", "DSAT"), ("b", "SAT"), ("a", "NEUTRAL")]


def test_a_label_given_blind_stays_the_unbiased_one_when_it_is_changed_in_sight_of_the_judge(journal):
    journal.add(decision(label="DSAT", blind=True, random=False))
    journal.add(decision(label="SAT", blind=False, random=True))
    (turn,) = journal.read_reviewed("ann")
    assert (turn.last.label, turn.unbiased, turn.blind, turn.random) == ("SAT", "DSAT", True, True)
    journal.add(decision(label="NEUTRAL", blind=True))
    assert journal.read_reviewed("ann")[0].unbiased == "NEUTRAL"


def test_undo_brings_back_the_decision_before_and_keeps_what_was_undone(journal):
    first, second = journal.add(decision(label="DSAT")), journal.add(decision(label="SAT"))
    assert journal.undo("ann", first.id) is None  # a newer one stands on its turn
    assert journal.undo("bob", second.id) is None
    assert journal.undo("ann", second.id) == second
    assert labels(journal) == {"a": "DSAT"}
    assert journal.undo("ann", second.id) is None  # twice
    assert journal.find_last("ann") == first
    assert journal.undo("ann", first.id) == first
    assert journal.read_reviewed("ann") == [] and journal.find_last("ann") is None
    rows = sqlite3.connect(journal.path).execute("SELECT undone_at IS NOT NULL FROM decisions").fetchall()
    assert rows == [(1,), (1,)]


def test_every_change_changes_the_revision(journal):
    revisions = [journal.read_revision("ann")]
    kept = journal.add(decision())
    revisions.append(journal.read_revision("ann"))
    journal.undo("ann", kept.id)
    revisions.append(journal.read_revision("ann"))
    assert revisions == [[0, 0], [1, 0], [1, 1]]


def test_a_second_process_sees_and_adds(journal):
    journal.add(decision("a"))
    second = Journal(journal.path)
    second.add(decision("b", "SAT"))
    assert labels(journal) == labels(second) == {"a": "DSAT", "b": "SAT"}
    second.close()


def test_what_was_added_survives_kill_9(tmp_path):
    """A process adds decisions as fast as it can, says each number after it, and is killed in the middle."""
    path = tmp_path / "review.sqlite"
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace\n"
        "from drift_data.review.journal import Decision, Journal\n"
        f"journal = Journal(Path({str(path)!r}))\n"
        f"given = {decision()!r}\n"
        "for n in range(100_000): print(journal.add(replace(given, conversation_id=str(n))).id, flush=True)\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
            said = [int(process.stdout.readline()) for _ in range(20)][-1]
            os.kill(process.pid, signal.SIGKILL)
        journal = Journal(path)
        ids = [row[0] for row in journal._database.execute("SELECT id FROM decisions ORDER BY id")]
        assert ids == list(range(1, len(ids) + 1)) and len(ids) >= said
        assert journal._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        journal.close()


def test_a_full_disk_keeps_nothing_and_says_so(journal):
    journal.add(decision("a"))
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match="No space left on device") as raised:
        journal.add(decision("b", text="x" * 50_000))
    assert raised.value.filename == str(journal.path)
    assert labels(journal) == {"a": "DSAT"}
    journal._database.execute("PRAGMA max_page_count = 1000000")
    journal.add(decision("b"))
    assert labels(journal) == {"a": "DSAT", "b": "DSAT"}


def test_a_file_that_is_no_journal_is_a_mistake_of_the_user_and_stays_as_it_is(tmp_path):
    path = tmp_path / "review.sqlite"
    path.write_text("my notes " * 200)
    with pytest.raises(UserError, match=r"review.sqlite is not a journal of reviews.*Move it away"):
        Journal(path)
    assert path.read_text() == "my notes " * 200
    other = tmp_path / "newer.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(UserError, match="layout 7, this one reads 1"):
        Journal(other)
