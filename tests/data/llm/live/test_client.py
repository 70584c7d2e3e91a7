"""The client over a real socket: what is asked, how often, how many at once, and what stays when it is stopped."""

import asyncio
import gc
import itertools
import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drift_data.llm.cost import Spending
from drift_data.llm.live.client import Client, _InFlight
from drift_data.llm.options import ClientOptions, Price, ServerOptions
from drift_data.llm.request import Answer, Schema
from drift_data.llm.store import STORE_FILE, Store
from drift_data.workspace import UserError
from tests.helpers.llm_server import Body, Cut, Fault, LLMServer, Reply
from tests.helpers.llm_tasks import Question, client, questions, request
from tests.helpers.paths import ROOT


def test_every_task_gets_its_own_answer(tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: body["messages"][-1]["content"].upper()) as server,
        client(server.base_url, tmp_path) as made,
    ):
        done = list(made.run(questions(200)))
    assert {task.user: task.answer.text for task in done} == {
        f"question {place}": f"QUESTION {place}" for place in range(200)
    }
    assert server.received == 200


def test_body_has_what_the_request_says(tmp_path: Path) -> None:
    schema = Schema("color", {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}})
    asked = Question("which?", seed=7, extra={"reasoning_effort": "low"})
    assert asked.request is not None
    asked.request = type(asked.request)("Be brief.", "which?", asked.request.sampling, schema)
    with LLMServer() as server, client(server.base_url, tmp_path) as made:
        (task,) = made.run([asked])
    assert server.requests == [
        {
            "model": "test",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "which?"},
            ],
            "max_tokens": 100,
            "temperature": 0.0,
            "seed": 7,
            "reasoning_effort": "low",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "color", "strict": True, "schema": dict(schema.schema)},
            },
        }
    ]
    assert json.loads(task.answer.text)["color"] in ("red", "blue")


def test_nothing_stored_is_asked_again(tmp_path: Path) -> None:
    with (
        LLMServer() as server,
        client(server.base_url, tmp_path) as made,
    ):
        first = {task.user: task.answer for task in made.run(questions(50))}
        spending = Spending()
        with client(server.base_url, tmp_path, spending) as made:
            second = {task.user: task.answer for task in made.run(questions(60))}
    assert server.received == 60
    assert (spending.sent, spending.stored) == (10, 50)
    assert {user: second[user] for user in first} == first


def test_finished_run_needs_no_server(tmp_path: Path) -> None:
    with LLMServer() as server, client(server.base_url, tmp_path) as made:
        list(made.run(questions(300)))
    with client(server.base_url, tmp_path) as made:
        assert len(list(made.run(questions(300)))) == 300


def test_follow_up_is_asked_and_stored(tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> str:
        return "good" if body["messages"][-1]["content"].endswith("(again)") else "bad"

    for _ in range(2):
        with LLMServer(answer) as server, client(server.base_url, tmp_path) as made:
            (task,) = made.run([Question("well?", good=lambda answer: answer.text == "good")])
        assert [answer.text for answer in task.answers] == ["bad", "good"]
    assert server.received == 0  # the second time


def test_equal_requests_on_their_way_are_sent_once(tmp_path: Path) -> None:
    spending = Spending(price=Price(input=1e6, output=0))
    with (
        LLMServer(lambda body, count: Reply(delay=0.1)) as server,
        client(server.base_url, tmp_path, spending) as made,
    ):
        done = list(made.run(Question(f"question {place % 3}") for place in range(12)))
    assert (server.received, len(done)) == (3, 12)
    assert len({task.answer.text for task in done}) == 3
    assert (spending.sent, spending.stored, spending.spent_before) == (3, 9, 0)


def test_tasks_are_taken_as_there_is_room(tmp_path: Path) -> None:
    taken = itertools.count()
    with LLMServer(latency=0.01) as server, client(server.base_url, tmp_path, connections=4) as made:
        running = made.run(Question(f"question {next(taken)}") for _ in range(1_000))
        next(running)
        assert next(taken) <= 4 * 2 + 1
    assert server.most_at_once <= 4


def test_tokens_and_price_come_from_the_answer(tmp_path: Path) -> None:
    spending = Spending(price=Price(input=1_000_000, output=2_000_000, cached_input=500_000))
    with (
        LLMServer(lambda body, count: Reply("x" * 40, cached_tokens=4)) as server,
        client(server.base_url, tmp_path, spending) as made,
    ):
        (task,) = made.run([Question("u" * 85)])
    # 15 characters of system, 85 of user: 25 tokens at four characters each, of them 4 cached; 10 for the answer
    assert task.answer == Answer("x" * 40, "stop", 25, 4, 10, price=21 * 1 + 4 * 0.5 + 10 * 2)
    assert spending.spent_now == task.answer.price


def test_tokens_are_counted_for_a_server_that_does_not(tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: Reply("four", usage=False)) as server,
        client(server.base_url, tmp_path, Spending(count_tokens=len)) as made,
    ):
        (task,) = made.run([Question("why")])
    assert (task.answer.input_tokens, task.answer.output_tokens) == (15 + 3, 4)


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": 5, "total_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": 10**30, "completion_tokens": 2},
        {"prompt_tokens": -5, "completion_tokens": -2},
        "many",
    ],
)
def test_tokens_that_cannot_be_read_cost_no_answer(usage: object, tmp_path: Path) -> None:
    choice = {"message": {"role": "assistant", "content": "four"}, "finish_reason": "stop"}
    raw = json.dumps({"choices": [choice], "usage": usage}).encode()
    with (
        LLMServer(lambda body, count: Fault(200, raw=raw)) as server,
        client(server.base_url, tmp_path, Spending(count_tokens=len)) as made,
    ):
        (task,) = made.run([Question("why")])
    assert (task.answer.text, task.answer.input_tokens, task.answer.output_tokens) == ("four", 15 + 3, 4)


def test_no_more_tokens_are_cached_than_were_sent(tmp_path: Path) -> None:
    spending = Spending(price=Price(input=1_000_000, output=0, cached_input=0))
    with (
        LLMServer(lambda body, count: Reply("four", cached_tokens=1_000)) as server,
        client(server.base_url, tmp_path, spending) as made,
    ):
        (task,) = made.run([Question("why")])
    assert task.answer.cached_tokens == task.answer.input_tokens and task.answer.price == 0


def test_budget_is_kept_and_used_up(tmp_path: Path) -> None:
    # Each request may cost 100 tokens of answer, and costs 1: room for many more than the first guess.
    spending = Spending(price=Price(input=0, output=1_000_000), budget=150, count_tokens=len)
    with LLMServer(lambda body, count: "four") as server, client(server.base_url, tmp_path, spending) as made:
        done = list(made.run(questions(100)))
    answered = [task for task in done if task.answer.error is None]
    assert {task.answer.error for task in done} == {None, "over_budget"}
    assert len(answered) == 51  # after 51 only 99 are left: the next could cost 100
    assert (spending.spent_now, spending.over_budget) == (51, 49)


def test_text_that_is_no_unicode_is_sent_nonetheless(tmp_path: Path) -> None:
    with LLMServer() as server, client(server.base_url, tmp_path) as made:
        (task,) = made.run([Question("half a pair: \ud83d, and Tamil: தமிழ்")])
    assert task.answer.error is None
    assert server.requests[0]["messages"][-1]["content"] == "half a pair: ?, and Tamil: தமிழ்"


def test_error_of_a_task_comes_out(tmp_path: Path) -> None:
    def dislike(answer: Answer) -> bool:
        raise ZeroDivisionError

    with LLMServer() as server, client(server.base_url, tmp_path) as made, pytest.raises(ZeroDivisionError):
        list(made.run([Question("?", good=dislike)]))


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::ResourceWarning")
def test_stopping_early_leaves_nothing_open(tmp_path: Path) -> None:
    with LLMServer(latency=0.02) as server:
        with client(server.base_url, tmp_path) as made:
            for task in itertools.islice(made.run(questions(100)), 5):
                assert task.answer.error is None
            assert server.connections > 0
        until = time.monotonic() + 2
        while server.connections and time.monotonic() < until:
            time.sleep(0.01)
        assert server.connections == 0
        gc.collect()
    with Store(tmp_path / STORE_FILE) as store:
        assert store.count() >= 5


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.helpers.llm_tasks import client, questions
with client(sys.argv[1], Path(sys.argv[2]), connections=8) as made:
    for number, task in enumerate(made.run(questions(2_000))):
        if number == 20:
            print("going", flush=True)
"""


def start(server: LLMServer, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [
            sys.executable,
            "-X",
            "dev",
            "-c",
            RUN,
            server.base_url,
            str(folder),
            str(ROOT),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    return process


def test_interrupt_ends_it_without_noise(tmp_path: Path) -> None:
    with LLMServer(latency=0.02) as server:
        process = start(server, tmp_path)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert (
        "never" not in said and "destroyed" not in said and "Unclosed" not in said and "Resource" not in said
    )


@pytest.mark.parametrize("where", ["as a run ends", "twice in a task", "while closing"])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::ResourceWarning")
def test_interrupt_at_a_bad_moment_is_an_interrupt_and_nothing_else(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # asyncio's own handler raises at once, wherever it is, when the coroutine that the loop runs has just ended.
    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    def good(_: Answer) -> bool:
        loop = asyncio.get_running_loop()
        if where == "twice in a task":
            interrupt()
            interrupt()
        elif where == "as a run ends":  # two rounds of the loop on: right after the client's own coroutine
            loop.call_soon(loop.call_soon, interrupt)
        return True

    if where == "while closing":
        cancel_all = _InFlight.cancel_all

        async def closing(in_flight: _InFlight[Question]) -> None:
            interrupt()
            await cancel_all(in_flight)

        monkeypatch.setattr(_InFlight, "cancel_all", closing)
    with LLMServer(latency=0.01) as server:
        with client(server.base_url, tmp_path) as made, pytest.raises(KeyboardInterrupt):
            list(made.run([Question("first", good=good), *questions(50 * (where != "while closing"))]))
        until = time.monotonic() + 2
        while server.connections and time.monotonic() < until:
            time.sleep(0.01)
        assert server.connections == 0
    gc.collect()
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.slow
def test_kill_repeats_at_most_what_was_on_its_way(tmp_path: Path) -> None:
    kills, needed = 3, 400
    with LLMServer(latency=0.01) as server:
        for _ in range(kills):
            process = start(server, tmp_path)
            process.kill()
            process.communicate()
        with client(server.base_url, tmp_path, connections=8) as made:
            assert len(list(made.run(questions(needed)))) == needed
        with Store(tmp_path / STORE_FILE) as store:
            stored = store.count()
    assert server.received <= stored + kills * 8
    assert max(server.counts.values()) <= 1 + kills


@pytest.mark.parametrize("key", ["sk-in two", "sk-one\nsk-two", "sk-é", "Bearer sk-one"])
def test_what_cannot_be_a_key_is_told_and_not_shown(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with (
        LLMServer() as server,
        client(server.base_url, tmp_path) as made,
        pytest.raises(UserError, match=r"\$OPENAI_API_KEY") as raised,
    ):
        list(made.run(questions(3)))
    assert "sk-" not in str(raised.value) and server.received == 0


def test_key_is_asked_for_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with (
        Store(tmp_path / STORE_FILE) as store,
        Client(store, Spending(), ServerOptions(), ClientOptions()) as made,
        pytest.raises(UserError, match=r"set \$OPENAI_API_KEY"),
    ):
        list(made.run(questions(1)))


def test_report_says_what_went_wrong_on_the_way(tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: Cut() if count == 1 else None) as server,
        client(server.base_url, tmp_path) as made,
    ):
        list(made.run(questions(5)))
        report = made.report()
    assert report["requests"] == {"sent": 5, "from_store": 0, "failed": 0, "over_budget": 0}
    assert report["server"] == {
        "base_url": server.base_url,
        "failed_attempts": {"connection cut": 5},
        "most_at_once": 5,
    }


def test_request_key_is_not_touched_by_how_it_is_sent() -> None:
    assert request("a").key == request("a").key != request("b").key
