"""Batch files without the API: written, answered by someone else, read back."""

import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drift_data.llm.batch.backend import BatchBackend
from drift_data.llm.batch.rounds import AwaitingResults, run_in_rounds
from drift_data.llm.cost import Spending
from drift_data.llm.options import BatchOptions, Price, ServerOptions
from drift_data.llm.request import CONTENT_FILTER, REFUSAL, Answer
from drift_data.llm.store import Store
from drift_data.workspace import UserError
from tests.helpers.batch_server import echo, expired, failed, result
from tests.helpers.batch_tasks import Question


class Desk:
    """A store, the spending, which lasts for one run, and a folder for the files."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder / "batch", Store(folder / "judge.sqlite")
        self.spending = Spending()

    def run(
        self,
        asked: Iterable[Question],
        price: Price | None = None,
        budget: float | None = None,
        **options: Any,
    ) -> dict[str, Answer]:
        """One offline run; returns the answers by question."""
        self.spending = Spending(price or Price(input=0, output=0), budget)
        wanted = BatchOptions(**{"offline": True, **options})
        specs = [(task.text, task.sampling.model) for task in asked]
        with BatchBackend(self.store, self.spending, self.folder, ServerOptions(), wanted) as batch:
            try:
                return run_in_rounds(
                    lambda: {t.text: t.answer for t in batch.run(Question(*spec) for spec in specs)}
                )
            finally:
                self.report = batch.report()

    def awaits(self, asked: Iterable[Question], **options: Any) -> AwaitingResults:
        with pytest.raises(AwaitingResults) as caught:
            self.run(asked, **options)
        return caught.value


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


def questions(count: int) -> Iterator[Question]:
    return (Question(f"question {number}") for number in range(count))


def lines(paths: Iterable[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def write(path: Path, rows: Iterable[dict[str, Any] | str]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def texts(answers: dict[str, Answer]) -> dict[str, str]:
    return {text: answer.text for text, answer in answers.items()}


def test_offline_files_hold_each_request_once_in_the_apis_format(desk: Desk) -> None:
    awaiting = desk.awaits([Question("one"), Question("two"), Question("one")])
    first, second = lines(awaiting.files)
    request = Question("one").request
    assert request is not None
    assert first == {
        "custom_id": request.key,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": request.body("openai"),
    }
    assert second["body"]["messages"][1]["content"] == "two"
    assert (awaiting.requests, [path.name for path in awaiting.files]) == (2, ["requests-00000.jsonl"])
    assert "RESULTS=" in str(awaiting)
    assert str(awaiting.files[0]) in str(awaiting)


def test_the_same_offline_command_again_writes_no_second_round(desk: Desk) -> None:
    first = desk.awaits(questions(3))
    assert desk.awaits(questions(3)).files == first.files
    assert len(desk.awaits(questions(4)).files) == 1
    assert sorted(path.name for path in desk.folder.iterdir()) == ["round-001", "round-002"]


@pytest.mark.parametrize(
    ("limits", "counts"),
    [
        ({"requests_per_file": 2}, [2, 2, 1]),
        ({"bytes_per_file": 900}, [2, 2, 1]),
        ({"enqueued_tokens": 48}, [3, 2]),  # 6 for "system", 10 for "question 0"
    ],
)
def test_files_keep_the_limits(desk: Desk, limits: dict[str, int], counts: list[int]) -> None:
    awaiting = desk.awaits(questions(5), **limits)
    assert [len(lines([path])) for path in awaiting.files] == counts
    assert all(path.stat().st_size <= limits.get("bytes_per_file", 10**6) for path in awaiting.files)


def test_a_file_holds_one_model(desk: Desk) -> None:
    awaiting = desk.awaits([Question("one", "a"), Question("two", "a"), Question("three", "b")])
    assert [{line["body"]["model"] for line in lines([path])} for path in awaiting.files] == [{"a"}, {"b"}]


def test_a_request_too_large_for_any_file_fails_alone(desk: Desk, tmp_path: Path) -> None:
    asked = [Question("x" * 2_000), Question("small")]
    awaiting = desk.awaits(asked, bytes_per_file=1_000)
    back = write(tmp_path / "back.jsonl", map(echo, lines(awaiting.files)))
    answers = desk.run(asked, bytes_per_file=1_000, results=(back,))
    assert [answer.error for answer in answers.values()] == ["prompt_too_long", None]


def test_lines_stay_lines_for_tools_that_split_at_any_line_break(desk: Desk) -> None:
    text = "a\u2028b\u2029c\u0085d\ne\udc80"
    awaiting = desk.awaits([Question(text)])
    (line,) = awaiting.files[0].read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["body"]["messages"][1]["content"] == text.replace("\udc80", "?")


def test_results_in_any_order_doubled_and_packed_come_back_by_key(desk: Desk, tmp_path: Path) -> None:
    rows = [echo(line) for line in lines(desk.awaits(questions(4)).files)]
    folder = tmp_path / "back"
    folder.mkdir()
    write(folder / "b.jsonl", [rows[3], rows[0], rows[3]])
    (folder / "a.jsonl.gz").write_bytes(
        gzip.compress(b"\n".join(json.dumps(row).encode() for row in rows[1:3]))
    )
    other = result(rows[0]["custom_id"], {"choices": [{"message": {"content": "LATE"}}]})
    write(folder / "c.jsonl", [other])
    answers = desk.run(questions(4), results=(str(folder),))
    assert texts(answers) == {f"question {number}": f"QUESTION {number}" for number in range(4)}
    assert answers["question 2"].input_tokens == 10
    assert (desk.report["batch"]["doubled"], desk.report["batch"]["unknown"]) == (2, 0)
    assert desk.report["requests"] == {"sent": 4, "from_store": 0, "failed": 0, "over_budget": 0}
    assert desk.run(questions(4)) == answers  # now from the store, without results
    assert desk.report["requests"]["from_store"] == 4
    assert not list(desk.folder.glob(".*"))


@pytest.mark.parametrize("names", [("errors.jsonl", "results.jsonl"), ("results.jsonl", "errors.jsonl")])
def test_an_answer_stands_above_an_error_wherever_it_is(
    desk: Desk, tmp_path: Path, names: tuple[str, str]
) -> None:
    one, two = lines(desk.awaits(questions(2)).files)
    errors = [failed(one["custom_id"], 500), failed(two["custom_id"], 500), echo(two)]
    write(tmp_path / "errors.jsonl", errors)
    write(tmp_path / "results.jsonl", [echo(one)])
    answers = desk.run(questions(2), results=tuple(str(tmp_path / name) for name in names))
    assert texts(answers) == {"question 0": "QUESTION 0", "question 1": "QUESTION 1"}


def test_after_an_unfinished_task_nothing_is_handed_out_that_someone_would_hold(
    desk: Desk, tmp_path: Path
) -> None:
    back = write(tmp_path / "back.jsonl", map(echo, lines(desk.awaits(questions(3)).files)))
    desk.run(questions(3), results=(back,))
    asked = [Question("question 0"), Question("new"), Question("question 1")]
    seen: list[str] = []
    options = BatchOptions(offline=True)
    with (
        BatchBackend(desk.store, desk.spending, desk.folder, ServerOptions(), options) as batch,
        pytest.raises(AwaitingResults),
    ):
        seen.extend(task.text for task in batch.run(asked))
    assert seen == ["question 0"]


def test_what_failed_expired_is_missing_or_follows_is_asked_again(desk: Desk, tmp_path: Path) -> None:
    rows = lines(desk.awaits(questions(5)).files)
    bad = result(rows[3]["custom_id"], {"choices": [{"message": {"content": "BAD"}}]})
    back = write(
        tmp_path / "back.jsonl",
        [echo(rows[0]), failed(rows[1]["custom_id"], 429), expired(rows[2]["custom_id"]), bad],
    )
    awaiting = desk.awaits(questions(5), results=(back,))
    asked = [line["body"]["messages"][1]["content"] for line in lines(awaiting.files)]
    assert asked == ["question 1", "question 2", "again: question 3", "question 4"]
    assert awaiting.files[0].parent.name == "round-002"
    for reason in ("status 429", "batch_expired", "follow-up", "not in the results", "FINAL=1"):
        assert reason in str(awaiting)
    more = write(tmp_path / "more.jsonl", map(echo, lines(awaiting.files)))
    assert texts(desk.run(questions(5), results=(more,))) == {
        "question 0": "QUESTION 0",
        "question 1": "QUESTION 1",
        "question 2": "QUESTION 2",
        "question 3": "AGAIN: QUESTION 3",
        "question 4": "QUESTION 4",
    }


def test_final_finishes_without_what_is_missing_and_stores_no_error(desk: Desk, tmp_path: Path) -> None:
    rows = lines(desk.awaits(questions(4)).files)
    back = write(
        tmp_path / "back.jsonl",
        [echo(rows[0]), failed(rows[1]["custom_id"], 500, "no luck"), expired(rows[2]["custom_id"])],
    )
    answers = desk.run(questions(4), results=(back,), final=True)
    assert [answer.error for answer in answers.values()] == [None, "request_failed", "no_answer", "no_answer"]
    assert "no luck" in (answers["question 1"].detail or "")
    assert "batch_expired" in (answers["question 2"].detail or "")
    assert desk.store.count() == 1
    assert desk.report["requests"]["failed"] == 3


def test_a_request_that_cannot_succeed_is_not_asked_again(desk: Desk, tmp_path: Path) -> None:
    rows = lines(desk.awaits(questions(4)).files)
    back = write(
        tmp_path / "back.jsonl",
        [
            echo(rows[0]),
            failed(rows[1]["custom_id"], 400, "too long", "context_length_exceeded"),
            failed(rows[2]["custom_id"], 400, "filtered", "content_filter"),
            failed(rows[3]["custom_id"], 422, "nonsense"),
        ],
    )
    answers = desk.run(questions(4), results=(back,))
    assert answers["question 1"].error == "prompt_too_long"
    assert (answers["question 2"].error, answers["question 2"].finish_reason) == (None, CONTENT_FILTER)
    assert answers["question 3"].error == "request_refused"


def test_refusals_and_broken_answers_are_told_apart_as_by_the_client(desk: Desk, tmp_path: Path) -> None:
    rows = lines(desk.awaits(questions(4)).files)
    ids = [row["custom_id"] for row in rows]
    broken = echo(rows[3])
    broken["response"]["body"]["choices"][0]["finish_reason"] = "abort"
    back = [
        failed(ids[0], 400, "This model's maximum context length is 4096 tokens."),
        failed(ids[1], 413, "Payload too large"),
        failed(ids[2], 403, "Your input was flagged: moderation"),
        broken,
    ]
    answers = desk.run(questions(4), results=(write(tmp_path / "back.jsonl", back),), final=True)
    assert answers["question 0"].error == answers["question 1"].error == "prompt_too_long"
    assert (answers["question 2"].error, answers["question 2"].finish_reason) == (None, CONTENT_FILTER)
    assert answers["question 3"].error == "request_failed"
    assert answers["question 3"].detail == "finish_reason abort: QUESTION 3"


def test_a_request_that_fails_in_round_after_round_is_given_up(desk: Desk, tmp_path: Path) -> None:
    rows = lines(desk.awaits(questions(2)).files)
    write(tmp_path / "1.jsonl", [echo(rows[0]), failed(rows[1]["custom_id"], 500)])
    for number in (2, 3):
        desk.awaits(questions(2), results=(str(tmp_path / "?.jsonl"),))
        write(tmp_path / f"{number}.jsonl", [failed(rows[1]["custom_id"], 500)] * 5)
    answers = desk.run(questions(2), results=(str(tmp_path / "?.jsonl"),))
    assert answers["question 1"].error == "request_failed"
    assert "tried 3 times" in (answers["question 1"].detail or "")


def test_results_of_other_prompts_are_said_loudly_and_not_used(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = lines(desk.awaits(questions(3)).files)
    back = write(tmp_path / "back.jsonl", map(echo, rows))
    other = [Question("another"), Question("question 1")]
    awaiting = desk.awaits(other, results=(back,))
    assert [line["body"]["messages"][1]["content"] for line in lines(awaiting.files)] == ["another"]
    assert "2 of these requests do not belong to this run" in capsys.readouterr().err
    assert desk.report["batch"]["unknown"] == 2


def test_malformed_lines_are_told_and_their_requests_asked_again(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = lines(desk.awaits(questions(4)).files)
    whole = json.dumps(echo(rows[1]))
    back = write(
        tmp_path / "back.jsonl",
        [
            echo(rows[0]),
            whole[: len(whole) // 2],
            "",
            "[1, 2]",
            {"response": {"status_code": 200, "body": {}}},
            result(rows[2]["custom_id"], {"choices": []}),
            result(rows[3]["custom_id"], {"choices": [{"message": {"content": None}}]}),
        ],
    )
    awaiting = desk.awaits(questions(4), results=(back,))
    asked = [line["body"]["messages"][1]["content"] for line in lines(awaiting.files)]
    assert asked == ["question 1", "question 2"]
    told = capsys.readouterr().err
    assert f"{back}:2 is not a result" in told
    assert f"{back}:5 is not a result: custom_id: Field required" in told
    assert "no chat completion" in str(awaiting)
    assert desk.report["batch"]["malformed"] == 3


def test_lines_of_another_party_need_only_custom_id_and_content(desk: Desk, tmp_path: Path) -> None:
    (row,) = lines(desk.awaits([Question("one")]).files)
    body = {"choices": [{"message": {"content": "four"}}]}
    back = write(tmp_path / "back.jsonl", [{"custom_id": row["custom_id"], "response": {"body": body}}])
    answers = desk.run([Question("one")], Price(input=1_000_000, output=1_000_000), results=(back,))
    tokens = len("system") + len("one")  # tokens are counted as characters
    assert answers["one"] == Answer("four", "stop", tokens, 0, 4, price=(tokens + 4) * 0.5)


def test_a_refusal_comes_back_as_one(desk: Desk, tmp_path: Path) -> None:
    (row,) = lines(desk.awaits([Question("one")]).files)
    body = {"choices": [{"message": {"content": None, "refusal": "I cannot"}, "finish_reason": "stop"}]}
    back = write(tmp_path / "back.jsonl", ["\ufeff" + json.dumps(result(row["custom_id"], body))])
    answer = desk.run([Question("one")], results=(back,))["one"]
    assert (answer.text, answer.finish_reason) == ("I cannot", REFUSAL)


def test_request_files_are_no_results(desk: Desk, tmp_path: Path) -> None:
    awaiting = desk.awaits(questions(2))
    with pytest.raises(UserError, match="holds requests, not results"):
        desk.run(questions(2), results=(str(awaiting.files[0]),))
    with pytest.raises(UserError, match="no such file"):
        desk.run(questions(2), results=(str(tmp_path / "nowhere.jsonl"),))


def test_a_wrong_model_stops_the_run_and_not_every_label(desk: Desk, tmp_path: Path) -> None:
    rows = lines(desk.awaits(questions(3)).files)
    back = write(tmp_path / "e.jsonl", [failed(row["custom_id"], 404, "no model tiny") for row in rows])
    with pytest.raises(UserError, match="3 × status 404, such as 'no model tiny'"):
        desk.run(questions(3), results=(back,))


def test_nothing_to_ask_leaves_nothing_behind(desk: Desk) -> None:
    assert desk.run([]) == {}
    assert list(desk.folder.iterdir()) == []
    assert desk.report["batch"]["rounds"] == 0


def test_files_keep_the_budget_and_go_on_when_answers_cost_less(desk: Desk, tmp_path: Path) -> None:
    price = Price(input=0, output=1_000_000, batch=0.5)  # a request: 5 at most, 1 when answered with 2 tokens
    first = desk.awaits(questions(6), price=price, budget=12)
    assert first.requests == 2
    assert "4 more requests wait" in str(first)
    back = [write(tmp_path / "1.jsonl", map(echo, lines(first.files)))]
    asked = [2]
    answers: dict[str, Answer] = {}
    while not answers:
        try:
            answers = desk.run(questions(6), price=price, budget=12, results=tuple(back))
        except AwaitingResults as awaiting:
            asked.append(awaiting.requests)
            back.append(write(tmp_path / f"{len(back)}b.jsonl", map(echo, lines(awaiting.files))))
    assert asked == [2, 2, 1, 1]
    assert sum(answer.price for answer in answers.values()) == 6


def test_what_no_budget_is_left_for_is_over_budget_after_the_last_round(desk: Desk, tmp_path: Path) -> None:
    price = Price(input=0, output=1_000_000)
    first = desk.awaits(questions(3), price=price, budget=5.5)
    back = write(tmp_path / "1.jsonl", map(echo, lines(first.files)))
    desk.run(questions(1), price=price, results=(back,))  # stored: 1 of 5.5 is spent
    answers = desk.run(questions(3), price=price, budget=5.5)
    assert [answer.error for answer in answers.values()] == [None, "over_budget", "over_budget"]
    assert desk.report["requests"]["over_budget"] == 2


def test_follow_ups_cannot_spend_what_later_answers_have_used(desk: Desk, tmp_path: Path) -> None:
    price = Price(input=0, output=1_000_000)
    rows = [echo(line) for line in lines(desk.awaits(questions(4), price=price, budget=20).files)]
    rows[0]["response"]["body"]["choices"][0]["message"]["content"] = "BAD"
    back = write(tmp_path / "1.jsonl", rows)  # 1 each: 4 are spent, so 5 more do not fit into 8
    answers = desk.run(questions(4), price=price, budget=8, results=(back,))
    assert [answer.error for answer in answers.values()] == ["over_budget", None, None, None]
    assert desk.report["price"] == {"now": 4.0, "before": 0, "budget": 8.0}
