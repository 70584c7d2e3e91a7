"""The store: what is kept, under what key, and what a kill or another version leaves of it."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drift_data.llm import store as store_module
from drift_data.llm.request import Answer, Request, Sampling, Schema
from drift_data.llm.store import _LAYOUT_VERSION, _TABLES, Store
from drift_data.workspace import UserError
from drift_data.workspace.sqlite import open_versioned
from tests.helpers.llm_tasks import request
from tests.helpers.paths import ROOT

ANSWER = Answer("yes", "stop", 100, 40, 3, 0.25)
BASE = Request(
    "system",
    "user",
    Sampling(model="m", max_tokens=10, seed=1),
    Schema("s", {"type": "object", "required": []}),
)


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    with Store(tmp_path / "judge.sqlite") as store:
        store.put(BASE, ANSWER, backend="openai", seconds=0.5)
    with Store(tmp_path / "judge.sqlite") as store:
        assert store.get(BASE.key) == ANSWER
        assert store.has(BASE.key) and not store.has(request("else").key)
        assert store.get(request("else").key) is None
        assert store.count() == 1


def test_first_answer_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "judge.sqlite") as store:
        store.put(BASE, ANSWER, backend="openai")
        store.put(BASE, replace(ANSWER, text="no"), backend="batch")
        assert store.get(BASE.key) == ANSWER


def test_error_is_not_kept(tmp_path: Path) -> None:
    with Store(tmp_path / "judge.sqlite") as store, pytest.raises(ValueError, match="over_budget"):
        store.put(BASE, Answer(error="over_budget"), backend="openai")


CHANGES: list[Mapping[str, Any]] = [
    {"system": "System"},
    {"user": "user "},
    {"system": "systemu", "user": "ser"},  # the same bytes, parted elsewhere
    {"schema": None},
    {"schema": Schema("t", {"type": "object", "required": []})},
    {"schema": Schema("s", {"type": "object"})},
    {"sampling": Sampling(model="n", max_tokens=10, seed=1)},
    {"sampling": Sampling(model="m", max_tokens=11, seed=1)},
    {"sampling": Sampling(model="m", max_tokens=10, seed=2)},
    {"sampling": Sampling(model="m", max_tokens=10, seed=1, temperature=0.1)},
    {"sampling": Sampling(model="m", max_tokens=10, seed=1, extra={"top_p": 0.9})},
]


@pytest.mark.parametrize("change", CHANGES)
def test_key_changes_with_what_determines_the_answer(change: Mapping[str, Any]) -> None:
    assert replace(BASE, **change).key != BASE.key


def test_key_does_not_change_with_anything_else() -> None:
    schema = Schema("s", {"required": [], "type": "object"})
    same = replace(BASE, purpose="score", schema=schema)
    assert same.key == BASE.key
    # The value holds across runs and machines: a change of it makes every store worthless.
    assert BASE.key == "6ead9360be6baf875ba595c89d328b57e03cacb5a52c40b822bdee71f565e25f"


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_any_text_can_be_kept(user: str, answer: str) -> None:
    with Store(Path(":memory:")) as store:
        asked = request(user)
        store.put(asked, Answer(answer), backend="openai")
        kept = store.get(asked.key)
    assert kept is not None
    assert kept.text == answer.encode("utf-8", "replace").decode("utf-8")


def test_view_shows_request_and_answer_and_shared_texts_are_kept_once(tmp_path: Path) -> None:
    with Store(tmp_path / "judge.sqlite") as store:
        for number in range(3):
            store.put(replace(BASE, user=f"user {number}"), ANSWER, backend="openai", seconds=0.5)
    with sqlite3.connect(tmp_path / "judge.sqlite") as database:
        rows = database.execute(
            "SELECT system, user, schema, answer, price FROM requests ORDER BY user"
        ).fetchall()
        texts = database.execute("SELECT count(*) FROM texts").fetchone()[0]
    schema = '{"name":"s","schema":{"required":[],"type":"object"}}'
    assert rows == [("system", f"user {number}", schema, "yes", 0.25) for number in range(3)]
    assert texts == 2


def test_many_shared_texts_are_told_apart(tmp_path: Path) -> None:
    with Store(tmp_path / "judge.sqlite") as store:
        for number in [*range(1_100), *range(1_100)]:
            store.put(
                replace(BASE, system=f"system {number}", user=f"{number % 7}"), ANSWER, backend="openai"
            )
    with sqlite3.connect(tmp_path / "judge.sqlite") as database:
        rows = database.execute("SELECT system, user FROM requests ORDER BY user").fetchall()
    assert sorted(rows) == sorted((f"system {number}", f"{number % 7}") for number in range(1_100))


WRITE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.helpers.llm_tasks import request
from drift_data.llm.request import Answer
from drift_data.llm.store import Store
with Store(Path(sys.argv[1])) as store:
    for number in range(100_000):
        store.put(request(f"question {number}"), Answer(str(number)), backend="openai")
        print(number, flush=True)
"""


def test_kill_loses_nothing_that_was_put(tmp_path: Path) -> None:
    path = tmp_path / "judge.sqlite"
    command = [sys.executable, "-c", WRITE, str(path), str(ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 200:
            pass
        os.kill(process.pid, signal.SIGKILL)
        put = 200 + len([line for line in process.stdout.read().split("\n") if line])
    with Store(path) as store:
        assert [store.get(request(f"question {n}").key) for n in range(put)] == [
            Answer(str(n)) for n in range(put)
        ]
        assert store.count() <= put + 2


def test_full_disk_is_told_and_what_was_kept_stays(tmp_path: Path) -> None:
    with Store(tmp_path / "judge.sqlite") as store:
        store._database.execute("PRAGMA max_page_count = 30")
        with pytest.raises(OSError) as raised:
            for number in range(1_000):
                store.put(request(f"{number} " + "x" * 2_000), ANSWER, backend="openai")
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "judge.sqlite"))
        assert store.count() == number > 5
        store._database.execute("PRAGMA max_page_count = 10000")
        store.put(request("later"), ANSWER, backend="openai")
        assert store.count() == number + 1


def test_other_files_and_other_versions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("this is no database, but a text that is long enough" * 100)
    with pytest.raises(UserError, match="is not a store of requests"):
        Store(tmp_path / "text.sqlite")
    with sqlite3.connect(tmp_path / "new.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="another version of the tool"):
        Store(tmp_path / "new.sqlite")


def test_store_that_another_process_holds_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "open_versioned", partial(open_versioned, wait_seconds=0.1))
    with closing(sqlite3.connect(tmp_path / "judge.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match="held by another process") as raised:
            Store(tmp_path / "judge.sqlite")
    assert "Move it away" not in str(raised.value)


def test_file_that_cannot_be_opened_is_not_called_broken(tmp_path: Path) -> None:
    (tmp_path / "judge.sqlite").mkdir()
    with pytest.raises(UserError, match="cannot be opened") as raised:
        Store(tmp_path / "judge.sqlite")
    assert "Move it away" not in str(raised.value)


def test_store_that_two_make_at_once_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "judge.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as other, ThreadPoolExecutor() as threads:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        second = threads.submit(lambda: Store(path).close())
        time.sleep(0.3)  # it has seen a file without tables, and waits to make them
        for statement in f"{_TABLES} PRAGMA user_version = {_LAYOUT_VERSION}; COMMIT".split(";"):
            other.execute(statement)
        second.result(timeout=10)
