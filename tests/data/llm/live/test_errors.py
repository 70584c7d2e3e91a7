"""Faults over a real socket: what is tried again, what is given up, and what ends the run and says why."""

import email.utils
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from drift_data.llm.cost import Spending
from drift_data.llm.live.errors import read_retry_after
from drift_data.llm.options import Price
from drift_data.llm.store import STORE_FILE, Store
from drift_data.workspace import UserError
from tests.helpers.llm_server import Action, Body, Cut, Fault, Hang, LLMServer, Reply
from tests.helpers.llm_tasks import Question, client, questions
from tests.helpers.paths import ROOT

KEY = "sk-loopbackKeyThatMayAsk0123456789"


def asked(body: Body) -> str:
    text: str = body["messages"][-1]["content"]
    return text


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(500), "status 500"),
        (Fault(502, raw=b"<html>Bad Gateway</html>"), "status 502"),
        (Fault(408), "status 408"),
        (Fault(429), "status 429"),
        (Fault(503, headers={"Retry-After": "0.05"}), "status 503"),
        (Fault(200, raw=b'{"choices": [{"mess'), "no chat completion"),
        (Fault(200, raw=b"<html>Welcome</html>"), "no chat completion"),
        (Fault(200, raw=b'{"error": {"message": "provider failed"}}'), "no chat completion"),
        (Reply("half an ans", finish_reason="abort"), "finish_reason abort"),
        (Cut(), "connection cut"),
        (Cut(after=0), "connection cut"),
        (Hang(), "timeout"),
    ],
)
def test_what_may_pass_is_tried_again(fault: Action, reason: str, tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: fault if count == 1 and asked(body).endswith("3") else None) as server,
        client(server.base_url, tmp_path, timeout=0.5) as made,
    ):
        done = list(made.run(questions(10)))
        report = made.report()
    assert [task.answer.error for task in done] == [None] * 10
    assert report["server"]["failed_attempts"] == {reason: 1}
    assert server.received == 11


@pytest.mark.parametrize("status", [429, 500])
@pytest.mark.parametrize("header", ["seconds", "milliseconds", "date"])
def test_retry_after_keeps_all_requests_back(header: str, status: int, tmp_path: Path) -> None:
    times: list[float] = []

    def answer(body: Body, count: int) -> Action:
        times.append(time.monotonic())
        if len(times) > 1:
            return Reply()
        headers = {
            "seconds": {"Retry-After": "1"},
            "milliseconds": {"retry-after-ms": "1000"},
            "date": {"Retry-After": email.utils.formatdate(time.time() + 2, usegmt=True)},
        }[header]
        return Fault(status, headers=headers)

    with LLMServer(answer) as server, client(server.base_url, tmp_path, connections=1) as made:
        assert all(task.answer.error is None for task in made.run(questions(20)))
    assert 0.95 <= times[1] - times[0] < 2.5
    assert len(times) == 21


def test_wait_that_is_too_long_ends_the_run(tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: Fault(429, headers={"Retry-After": "86400"})) as server,
        client(server.base_url, tmp_path) as made,
        pytest.raises(UserError, match=r"no request for 86,400 s .* longer than the 900 s"),
    ):
        list(made.run(questions(3)))


def test_throttled_request_is_not_given_up_for_its_number_of_tries(tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: Fault(429) if count < 6 else None) as server,
        client(server.base_url, tmp_path, tries=2) as made,
    ):
        (task,) = made.run(questions(1))
    assert task.answer.error is None
    assert server.received == 6


def test_request_that_always_fails_fails_alone(tmp_path: Path) -> None:
    spending = Spending(price=Price(input=1, output=1), budget=1.0)
    with (
        LLMServer(
            lambda body, count: Fault(500, "engine \x1b[31mdied") if "7" in asked(body) else None
        ) as server,
        client(server.base_url, tmp_path, spending, tries=3) as made,
    ):
        done = {task.user: task.answer for task in made.run(questions(20))}
    failed = {user for user, answer in done.items() if answer.error}
    assert failed == {"question 7", "question 17"}
    assert done["question 7"].error == "request_failed"
    assert done["question 7"].detail == r"status 500: engine \x1b[31mdied"
    assert server.counts["question 7"] == 3
    assert spending.failed == 2 and not spending.has_reserved
    with Store(tmp_path / STORE_FILE) as store:
        assert store.count() == 18


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "Too much.", "context_length_exceeded"),
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000.", None),
        (400, "the request exceeds the available context size", None),
        (413, "Payload too large", None),
    ],
)
def test_prompt_that_is_too_long_is_not_tried_again(
    status: int, message: str, code: str | None, tmp_path: Path
) -> None:
    with (
        LLMServer(
            lambda body, count: Fault(status, message, code) if asked(body).endswith("3") else None
        ) as server,
        client(server.base_url, tmp_path, breaker=1) as made,
    ):
        done = {task.user: task.answer for task in made.run(questions(6))}
    assert Counter(answer.error for answer in done.values()) == {None: 5, "prompt_too_long": 1}
    assert message in (done["question 3"].detail or "")
    assert server.counts["question 3"] == 1


@pytest.mark.parametrize(
    ("action", "finish"),
    [
        (Fault(400, "The response was filtered.", "content_filter"), "content_filter"),
        (Fault(403, "Your input was flagged: moderation"), "content_filter"),
        (Reply("", finish_reason="content_filter"), "content_filter"),
        (Reply(refusal="I can't help with that."), "refusal"),
    ],
)
def test_refusal_is_an_answer_and_kept(action: Action, finish: str, tmp_path: Path) -> None:
    for sent in (1, 0):
        with LLMServer(lambda body, count: action) as server, client(server.base_url, tmp_path) as made:
            (task,) = made.run(questions(1))
        assert (task.answer.error, task.answer.finish_reason) == (None, finish)
        assert server.received == sent


def test_answer_that_was_cut_off_says_so(tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: Reply('{"turns": [{"tu', finish_reason="length")) as server,
        client(server.base_url, tmp_path) as made,
    ):
        (task,) = made.run(questions(1))
    assert (task.answer.text, task.answer.finish_reason) == ('{"turns": [{"tu', "length")


def test_wrong_key_stops_at_once_and_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "sk-loopbackKeyThatIsWrong0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", wrong)
    with (
        LLMServer(key=KEY, latency=0.02) as server,
        client(server.base_url, tmp_path) as made,
        pytest.raises(UserError, match=r"refuses the key in \$OPENAI_API_KEY \(status 401\)") as raised,
    ):
        list(made.run(questions(100)))
    assert server.received <= 8  # what was on its way: the limit begins there
    chain = [raised.value, raised.value.__cause__, raised.value.__context__]
    assert wrong not in repr(chain) and wrong[:10] not in str(raised.value)


def test_right_key_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with LLMServer(key=KEY) as server, client(server.base_url, tmp_path) as made:
        assert [task.answer.error for task in made.run(questions(3))] == [None] * 3
    assert KEY not in (tmp_path / STORE_FILE).read_bytes().decode("latin-1")


def test_key_that_a_server_repeats_is_cut_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with (
        LLMServer(lambda body, count: Fault(422, f"bad request with Bearer {KEY}")) as server,
        client(server.base_url, tmp_path) as made,
        pytest.raises(UserError, match="bad request with Bearer …") as raised,
    ):
        list(made.run(questions(3)))
    assert KEY not in str(raised.value)


def test_page_of_a_firewall_is_no_word_about_the_key(tmp_path: Path) -> None:
    page = Fault(403, raw=b"<html>Sorry, you have been blocked</html>")
    with (
        LLMServer(lambda body, count: page if "3" in asked(body) else None) as server,
        client(server.base_url, tmp_path) as made,
    ):
        done = {task.user: task.answer for task in made.run(questions(20))}
    refused = {user: answer.detail for user, answer in done.items() if answer.error == "request_refused"}
    assert refused.keys() == {"question 3", "question 13"}
    assert refused["question 3"] == "status 403: <html>Sorry, you have been blocked</html>"


def test_unknown_model_ends_the_run(tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: Fault(404, "no such model", "model_not_found")) as server,
        client(server.base_url, tmp_path) as made,
        pytest.raises(UserError, match=r"http://127.0.0.1:\d+/v1 does not know the model test"),
    ):
        list(made.run(questions(100)))
    assert server.received <= 8


@pytest.mark.parametrize("fault", [Fault(429, "quota", "insufficient_quota"), Fault(402, "Pay!")])
def test_empty_account_ends_the_run(fault: Fault, tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: fault) as server,
        client(server.base_url, tmp_path) as made,
        pytest.raises(UserError, match="no credit left"),
    ):
        list(made.run(questions(100)))
    assert server.received <= 8


def test_server_that_refuses_every_request_ends_the_run_in_its_words(tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: Fault(400, "response_format is not supported")) as server,
        client(server.base_url, tmp_path) as made,
        pytest.raises(
            UserError, match=r"refuses the requests \(status 400: response_format is not supported"
        ),
    ):
        list(made.run(questions(1_000)))
    assert server.received <= 20  # each once


def test_few_refused_requests_are_told_apart_from_a_server_that_knows_none(tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> Fault | None:
        return Fault(400, "not this one") if "bad" in asked(body) else None

    bad = [f"bad {number}" for number in range(15)]
    with LLMServer(answer) as server:
        with client(server.base_url, tmp_path) as made, pytest.raises(UserError, match="not this one"):
            list(made.run(Question(user) for user in bad))
        with client(server.base_url, tmp_path) as made:
            done = list(made.run([Question("good"), *(Question(user) for user in bad)]))
        # Now only the bad ones are left to ask; the run must still come to its end.
        with client(server.base_url, tmp_path) as made:
            again = list(made.run([Question("good"), *(Question(user) for user in bad)]))
    for tasks in (done, again):
        assert Counter(task.answer.error for task in tasks) == {None: 1, "request_refused": 15}


def test_server_that_goes_away_ends_the_run_and_what_was_answered_is_kept(tmp_path: Path) -> None:
    with LLMServer(latency=0.02) as server, client(server.base_url, tmp_path, tries=3, connections=8) as made:
        running = made.run(questions(100))
        for _ in range(20):
            next(running)
        threading.Thread(target=server.close).start()
        with pytest.raises(
            UserError, match=r"cannot be reached .* Is the server up\? What was answered is kept"
        ):
            list(running)
    with Store(tmp_path / STORE_FILE) as store:
        assert store.count() >= 20


def test_server_that_is_not_there_ends_the_run(tmp_path: Path) -> None:
    with LLMServer() as server:
        pass
    with (
        client(server.base_url, tmp_path, tries=2) as made,
        pytest.raises(UserError, match="cannot be reached"),
    ):
        list(made.run(questions(2)))


def test_error_that_is_no_fault_of_the_server_comes_out(tmp_path: Path) -> None:
    with (
        LLMServer() as server,
        client(server.base_url, tmp_path) as made,
        pytest.raises(TypeError, match="not JSON serializable"),
    ):
        list(made.run([Question("?", extra={"stop": {1, 2}})]))


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.helpers.llm_tasks import Question, client
try:
    with client(sys.argv[1], Path(sys.argv[2])) as made:
        for task in made.run(Question(f"{place} " + "x" * 10_000) for place in range(1_000)):
            pass
except OSError as error:
    print(error.errno, error.filename)
"""


def test_full_disk_ends_the_run_and_what_was_answered_can_be_read(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "--user", "--mount", "--map-root-user", "sh", "-c"]
    if subprocess.run([*mount, f"mount -t tmpfs none {disk}"], check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system (unshare --user --mount)")
    script = 'mount -t tmpfs -o size=2m none "$0" && "$@" && cp "$0"/judge.sqlite* "$0/.."'
    with LLMServer() as server:
        root = str(ROOT)
        command = [*mount, script, str(disk), sys.executable, "-c", FULL, server.base_url, str(disk), root]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert ended.stdout == f"28 {disk / STORE_FILE}\n"
    with Store(tmp_path / STORE_FILE) as store:
        assert 20 < store.count() <= server.received <= store.count() + 32


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after-ms": "300", "retry-after": "9"}, 0.3),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
    ],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float) -> None:
    assert read_retry_after(headers) == seconds


def test_request_that_is_put_off_for_too_long_is_given_up(tmp_path: Path) -> None:
    with (
        LLMServer(lambda body, count: Fault(429) if "3" in asked(body) else None) as server,
        client(server.base_url, tmp_path, patience=0.5) as made,
    ):
        done = {task.user: task.answer for task in made.run(questions(5))}
    assert {user for user, answer in done.items() if answer.error} == {"question 3"}
    assert done["question 3"].detail == "status 429: told to fail"


def test_gateway_error_of_the_last_request_does_not_end_each_run(tmp_path: Path) -> None:
    def answer(body: Body, count: int) -> Fault | None:
        return Fault(502) if "3" in asked(body) else None

    for _ in range(2):
        with LLMServer(answer) as server, client(server.base_url, tmp_path, tries=2) as made:
            done = list(made.run(questions(5)))
    assert Counter(task.answer.error for task in done) == {None: 4, "request_failed": 1}
    assert server.counts == {"question 3": 2}
