"""Batches submitted to a Batch API over a real socket."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drift_data.llm.batch.backend import BatchBackend
from drift_data.llm.batch.files import load_rounds
from drift_data.llm.batch.rounds import run_in_rounds
from drift_data.llm.cost import Spending
from drift_data.llm.options import BatchOptions, Price, ServerOptions
from drift_data.llm.request import Answer
from drift_data.llm.store import Store
from drift_data.workspace import UserError
from tests.helpers.batch_server import (
    CUT,
    KEY,
    BatchServer,
    Body,
    End,
    all_answered,
    batch_server,
    echo,
    expired,
    failed,
)
from tests.helpers.batch_tasks import Question
from tests.helpers.paths import ROOT

Run = Callable[..., dict[str, Answer]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.setenv("BATCH_TEST_KEY", KEY)
    with batch_server() as made:
        yield made


@pytest.fixture
def run(server: BatchServer, tmp_path: Path) -> Run:
    def ask(count: int, budget: float | None = None, **options: Any) -> dict[str, Answer]:
        with Store(tmp_path / "judge.sqlite") as store:
            spending = Spending(Price(input=1_000_000, output=1_000_000), budget)
            with backend(server, store, spending, **options) as batch:
                texts = [f"question {number}" for number in range(count)]
                answers = run_in_rounds(lambda: {t.text: t.answer for t in batch.run(map(Question, texts))})
                ask.report = batch.report()  # type: ignore[attr-defined]
                return answers

    return ask


def backend(server: BatchServer, store: Store, spending: Spending, **options: Any) -> BatchBackend:
    at = ServerOptions(base_url=server.base_url, api_key_env="BATCH_TEST_KEY")
    return BatchBackend(
        store, spending, store.path.parent / "batch", at, BatchOptions(**{"poll_seconds": 0.005, **options})
    )


def whole(count: int) -> dict[str, str]:
    return {f"question {number}": f"QUESTION {number}" for number in range(count)}


def texts(answers: dict[str, Answer]) -> dict[str, str]:
    return {text: answer.text for text, answer in answers.items()}


def statuses(folder: Path) -> list[list[str]]:
    return [[file.status for file in one.state.files] for one in load_rounds(folder / "batch")]


def test_files_are_submitted_awaited_and_read_back(server: BatchServer, run: Run, tmp_path: Path) -> None:
    answers = run(5, requests_per_file=2)
    assert texts(answers) == whole(5)
    assert answers["question 0"].price == (10 + 2) * 0.5
    assert [len(batch.requests) for batch in server.batches] == [2, 2, 1]
    assert set(server.asked.values()) == {1}
    assert server.batches[0].body["completion_window"] == "24h"
    assert run.report["requests"] == {"sent": 5, "from_store": 0, "failed": 0, "over_budget": 0}  # type: ignore[attr-defined]
    assert [one.state.closed for one in load_rounds(tmp_path / "batch")] == [True]
    calls = server.calls.total()
    assert texts(run(5)) == whole(5)  # from the store
    assert server.calls.total() == calls


def test_text_arrives_as_it_was_asked(server: BatchServer, tmp_path: Path) -> None:
    text = "grüße\u2028雪 \r\n--boundary\r\n"
    with (
        Store(tmp_path / "judge.sqlite") as store,
        backend(server, store, Spending()) as batch,
    ):
        answers = run_in_rounds(lambda: [task.answer.text for task in batch.run([Question(text)])])
    assert answers == [text.upper()]


def test_an_expired_batch_gives_what_it_has_and_the_rest_is_asked_again(
    server: BatchServer, run: Run
) -> None:
    def plan(number: int, requests: list[Body]) -> End:
        if number:
            return all_answered(number, requests)
        late = [expired(request["custom_id"]) for request in requests[2:]]
        return End("expired", [echo(request) for request in requests[:2]], late)

    server.plan = plan
    assert texts(run(5)) == whole(5)
    assert [len(batch.requests) for batch in server.batches] == [5, 3]


def test_missing_lines_failures_and_follow_ups_go_into_the_next_round(server: BatchServer, run: Run) -> None:
    def plan(number: int, requests: list[Body]) -> End:
        if number:
            return all_answered(number, requests)
        bad = echo(requests[0])
        bad["response"]["body"]["choices"][0]["message"]["content"] = "BAD"
        return End(results=[echo(requests[3]), bad], errors=[failed(requests[1]["custom_id"], 503)])

    server.plan = plan
    assert texts(run(4)) == {**whole(4), "question 0": "AGAIN: QUESTION 0"}
    asked = [request["body"]["messages"][1]["content"] for request in server.batches[1].requests]
    assert asked == ["again: question 0", "question 1", "question 2"]
    assert run.report["batch"]["rounds"] == 2  # type: ignore[attr-defined]


def test_a_poisoned_request_is_given_up_after_its_tries(server: BatchServer, run: Run) -> None:
    def plan(number: int, requests: list[Body]) -> End:
        poison = [r for r in requests if "question 1" in r["body"]["messages"][1]["content"]]
        return End(
            results=[echo(r) for r in requests if r not in poison],
            errors=[failed(r["custom_id"], 500) for r in poison],
        )

    server.plan = plan
    answers = run(3)
    assert (answers["question 1"].error, answers["question 0"].error) == ("request_failed", None)
    assert sorted(server.asked.values()) == [1, 1, 3]


def test_a_round_without_any_answer_stops_and_the_next_run_tries_again(server: BatchServer, run: Run) -> None:
    server.plan = lambda number, requests: End(errors=[failed(r["custom_id"], 500, "down") for r in requests])
    for _ in range(4):
        with pytest.raises(UserError, match="no request was answered: 3 × status 500, such as 'down'"):
            run(3)
    server.plan = all_answered
    assert texts(run(3)) == whole(3)


def test_a_file_that_fails_validation_is_told_and_written_anew(
    server: BatchServer, run: Run, tmp_path: Path
) -> None:
    fault = {"code": "model_not_found", "message": "The model tiny does not exist.", "line": 1}
    server.plan = lambda number, requests: End("failed", faults=[fault])
    with pytest.raises(UserError, match=r"requests-00000.jsonl: line 1: The model tiny does not exist"):
        run(2)
    assert statuses(tmp_path) == [["failed"]]
    server.plan = all_answered
    assert texts(run(2)) == whole(2)


def test_a_cancelled_batch_is_not_sent_again_by_itself(server: BatchServer, run: Run) -> None:
    server.plan = lambda number, requests: End("cancelled", [echo(requests[0])])
    with pytest.raises(UserError, match="cancelled batch_0"):
        run(2)
    server.plan = all_answered
    answers = run(2, final=True)
    assert [answer.error for answer in answers.values()] == [None, "no_answer"]
    assert len(server.batches) == 1
    assert texts(run(2)) == whole(2)


def test_a_full_queue_is_waited_for(
    server: BatchServer, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    server.queue_tokens = 1_000  # two requests
    assert texts(run(5, requests_per_file=2)) == whole(5)
    assert set(server.asked.values()) == {1}
    assert "Enqueued token limit reached" in capsys.readouterr().err
    assert server.calls["upload"] == 3  # a refused file is not uploaded again


def test_a_queue_that_stays_full_is_given_up(server: BatchServer, run: Run) -> None:
    server.queue_tokens = 10
    with pytest.raises(UserError, match="has had no room"):
        run(2, patience_hours=0.00001)


def test_no_more_tokens_are_at_the_api_than_the_account_may_have(server: BatchServer, run: Run) -> None:
    most = 0

    def plan(number: int, requests: list[Body]) -> End:
        nonlocal most
        busy = [batch for batch in server.batches if batch.looks < batch.end.looks]
        most = max(most, len(busy) + 1)
        return all_answered(number, requests)

    server.plan = plan
    assert texts(run(6, enqueued_tokens=35, requests_per_file=1)) == whole(6)  # 16 each
    assert (most, len(server.batches)) == (2, 6)


def test_the_budget_holds_back_what_does_not_fit(server: BatchServer, run: Run) -> None:
    answers = run(4, budget=25.0)  # 16 in, at most 10 out: 13 at most, 6 in the end
    assert [answer.error for answer in answers.values()] == [None, None, None, "over_budget"]
    assert sum(len(batch.requests) for batch in server.batches) == 3
    assert run.report["price"]["now"] == 18  # type: ignore[attr-defined]


def test_a_wrong_key_stops_at_once_and_is_not_shown(
    server: BatchServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_TEST_KEY", "sk-wrongKeyOfSomebody987654321")
    with pytest.raises(UserError, match=r"refuses the key in \$BATCH_TEST_KEY") as caught:
        run(2)
    assert server.calls.total() == 1
    assert "wrongKey" not in str(caught.value)


def test_no_key_is_said_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCH_TEST_KEY", raising=False)
    at = ServerOptions(api_key_env="BATCH_TEST_KEY")
    with (
        Store(tmp_path / "judge.sqlite") as store,
        BatchBackend(store, Spending(), tmp_path / "batch", at, BatchOptions()) as batch,
        pytest.raises(UserError, match=r"set \$BATCH_TEST_KEY"),
    ):
        list(batch.run([Question("one")]))


def test_no_credit_stops_the_run(server: BatchServer, run: Run) -> None:
    server.fail("create", 429, code="insufficient_quota")
    with pytest.raises(UserError, match="no credit left"):
        run(1)


@pytest.mark.parametrize(
    ("point", "status"), [("upload", CUT), ("retrieve", 500), ("content", CUT), ("content", 429)]
)
def test_faults_on_the_way_are_tried_again(server: BatchServer, run: Run, point: str, status: int) -> None:
    server.fail(point, status, times=2)
    assert texts(run(3)) == whole(3)
    assert set(server.asked.values()) == {1}


@pytest.mark.parametrize("status", [CUT, 500])
@pytest.mark.parametrize("made", [True, False])
def test_a_lost_answer_to_create_makes_no_second_batch(
    server: BatchServer, run: Run, tmp_path: Path, status: int, made: bool
) -> None:
    server.fail("create", status, times=1, after=made)
    with pytest.raises(UserError, match="run the same command again"):
        run(3)
    assert statuses(tmp_path) == [["submitting"]]
    assert texts(run(3)) == whole(3)
    assert (len(server.batches), set(server.asked.values())) == (1, {1})


def test_what_is_at_the_api_is_not_written_again_for_other_tasks(
    server: BatchServer, run: Run, tmp_path: Path
) -> None:
    server.fail("retrieve", 400, times=1)
    with pytest.raises(UserError, match="told to fail"):
        run(3)
    with pytest.raises(UserError, match="is at the API"):
        run(3, offline=True)
    assert texts(run(5)) == whole(5)  # three of them are under way
    assert [len(batch.requests) for batch in server.batches] == [3, 2]


def test_batches_of_other_requests_are_not_waited_for(server: BatchServer, run: Run, tmp_path: Path) -> None:
    server.plan = lambda number, requests: End(looks=1_000_000)
    server.fail("retrieve", 400, times=1)
    with pytest.raises(UserError, match="told to fail"):
        run(3)  # stays at the API
    server.plan = all_answered
    with Store(tmp_path / "judge.sqlite") as store, backend(server, store, Spending()) as batch:
        answers = run_in_rounds(lambda: [task.answer.text for task in batch.run([Question("other prompts")])])
    assert answers == ["OTHER PROMPTS"]
    assert [one.state.closed for one in load_rounds(tmp_path / "batch")] == [False, True]


_SCRIPT = """
import sys
from pathlib import Path
from drift_data.llm.batch.backend import BatchBackend
from drift_data.llm.options import BatchOptions
from drift_data.llm.batch.rounds import run_in_rounds
from drift_data.llm.cost import Spending
from drift_data.llm.options import ServerOptions
from drift_data.llm.store import Store
from tests.helpers.batch_tasks import Question
folder = Path(sys.argv[1])
at = ServerOptions(base_url=sys.argv[2], api_key_env="BATCH_TEST_KEY")
options = BatchOptions(poll_seconds=0.005, requests_per_file=2)
with (
    Store(folder / "judge.sqlite") as store,
    BatchBackend(store, Spending(), folder / "batch", at, options) as batch,
):
    texts = [f"question {number}" for number in range(7)]
    found = run_in_rounds(lambda: {t.text: t.answer.text for t in batch.run(map(Question, texts))})
import json
print(json.dumps(found))
"""


def start(server: BatchServer, folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BATCH_TEST_KEY": KEY}
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, str(folder), server.base_url],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("point", "calls"), [("create", 3), ("content", 1)])
def test_killed_at_any_point_and_run_again_submits_nothing_twice(
    server: BatchServer, tmp_path: Path, point: str, calls: int
) -> None:
    process = start(server, tmp_path)
    while server.calls[point] < calls and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.calls.clear()
    again = start(server, tmp_path)
    out, error = again.communicate(timeout=60)
    assert again.returncode == 0, error
    assert json.loads(out) == whole(7)
    assert set(server.asked.values()) == {1}
    assert len(server.batches) == 4
