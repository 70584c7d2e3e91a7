"""Which turns a cascade asks about, and what becomes of them and of the others; the server and the store are real."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drift_data.judge.base import JUDGED_ROWS, Judge, JudgedBatch, UnlabelledTurn, list_feedback_keys
from drift_data.judge.cascade import CascadeJudge
from drift_data.judge.local import LocalJudge
from drift_data.judge.options import Band
from drift_data.judge.rubric import Rubric, RubricItem, load_rubric
from drift_data.judge.spur.judge import LLMJudge
from drift_data.judge.spur.options import ScoreOptions, WindowOptions
from drift_data.llm.request import Sampling
from drift_data.schema import CONVERSATIONS
from drift_data.workspace import UserError
from tests.helpers.known_model import known_model
from tests.helpers.llm_server import Body, LLMServer, Reply
from tests.helpers.llm_tasks import client
from tests.helpers.scoring_model import asked_messages, scoring_answer

RUBRIC = load_rubric()
SAMPLING = Sampling(model="test")
NOWHERE = "http://127.0.0.1:9/v1"


class Told:
    """A local judge whose score of a turn is the number that its message begins with; without one it has none."""

    name, options, inputs, rubric = "local:told", {}, (), RUBRIC

    def judge(self, conversations: Iterable[pa.RecordBatch]) -> Iterator[JudgedBatch]:
        for batch in conversations:
            texts = {
                (row["conversation_id"], turn): row["messages"][turn]["content"].split()[0]
                for row in batch.to_pylist()
                for turn in range(len(row["messages"]))
            }
            rows = [
                {
                    **dict.fromkeys(JUDGED_ROWS.names),
                    **{"conversation_id": key[0], "turn": key[1], "dsat_score": float(texts[key])},
                    **{"sat_score": 0.0, "items": [], "judge": self.name, "rubric": RUBRIC.hash},
                }
                for key in list_feedback_keys(batch)
                if texts[key] != "none"
            ]
            without = [
                UnlabelledTurn(*key, "unscored") for key in list_feedback_keys(batch) if texts[key] == "none"
            ]
            yield JudgedBatch(pa.Table.from_pylist(rows, schema=JUDGED_ROWS), without)

    def report(self) -> dict[str, object]:
        return {}


def batch(*chats: list[str], first: int = 0) -> pa.RecordBatch:
    """Conversations c0, c1, … whose feedback turns have the given texts."""
    rows = []
    for at, texts in enumerate(chats, first):
        messages = [{"role": "user", "content": f"question {at}"}]
        for text in texts:
            messages += [
                {"role": "assistant", "content": f"reply to {at}"},
                {"role": "user", "content": text},
            ]
        rows.append({"conversation_id": f"c{at}", "source": "test", "messages": messages})
    return pa.RecordBatch.from_pylist(rows, schema=CONVERSATIONS).select(["conversation_id", "messages"])


def judged(judge: Judge, *batches: pa.RecordBatch) -> tuple[list[tuple[str, int, str]], list[UnlabelledTurn]]:
    """Return (conversation, turn, judge) of the rows, in order, and what has none."""
    answers = list(judge.judge(iter(batches)))
    assert len(answers) == len(batches)
    rows = pa.concat_tables([answer.rows for answer in answers]).to_pylist()
    without = [turn for answer in answers for turn in answer.unlabelled]
    return [(row["conversation_id"], row["turn"], row["judge"]) for row in rows], without


def asked(server: LLMServer) -> list[dict[int, str]]:
    return sorted(map(asked_messages, server.requests), key=str)


def cascade(backend: object, band: Band | None = None, local: Judge | None = None) -> CascadeJudge:
    llm = LLMJudge(backend, SAMPLING, RUBRIC)  # type: ignore[arg-type]
    return CascadeJudge(local or Told(), llm, band or Band())


def test_the_band_holds_its_lower_edge_and_not_its_upper_one(tmp_path: Path) -> None:
    chat = ["1.999 a", "2 b", "5 c", "7.999 d", "8 e", "0 f"]
    with LLMServer(scoring_answer) as server, client(server.base_url, tmp_path) as backend:
        rows, without = judged(cascade(backend, Band(low=2, high=8)), batch(chat))
        assert asked(server) == [{4: "2 b", 6: "5 c", 8: "7.999 d"}]
    assert not without
    assert rows == [
        ("c0", turn, "openai:test" if turn in (4, 6, 8) else "local:told") for turn in (2, 4, 6, 8, 10, 12)
    ]


def test_an_edge_is_compared_as_the_table_keeps_scores(tmp_path: Path) -> None:
    """0.7 in 32 bits lies below 0.7 in 64."""
    with LLMServer(scoring_answer) as server, client(server.base_url, tmp_path) as backend:
        judged(cascade(backend, Band(low=0.1, high=0.7)), batch(["0.1 a", "0.7 b"]))
        assert asked(server) == [{2: "0.1 a"}]


def test_other_turns_are_shown_as_context_and_what_follows_the_last_asked_one_is_not(tmp_path: Path) -> None:
    with LLMServer(scoring_answer) as server, client(server.base_url, tmp_path) as backend:
        judged(cascade(backend), batch(["9 before", "5 this", "9 after"], ["9 other"]))
        (body,) = server.requests
    user = body["messages"][1]["content"]
    assert asked_messages(body) == {4: "5 this"}
    assert "[2] user\n" in user and "9 before" in user and "question 0" in user
    assert "9 after" not in user and "9 other" not in user
    turn = body["response_format"]["json_schema"]["schema"]["properties"]["turns"]["items"]
    assert turn["properties"]["turn"]["enum"] == [4]


def test_rows_of_other_turns_are_the_local_judges_own(tmp_path: Path) -> None:
    chats = batch(["That is wrong", "Thank you", "try again"], ["shorter please"], ["Bye"])
    judge = LocalJudge(known_model())
    local = next(iter(judge.judge([chats]))).rows.to_pylist()
    assert [row["dsat_score"] for row in local] == pytest.approx([8.5, 0.1, 7, 7, 0.1])
    with LLMServer(scoring_answer) as server, client(server.base_url, tmp_path) as backend:
        answer = next(cascade(backend, local=judge).judge([chats]))
        assert asked(server) == [{2: "shorter please"}, {6: "try again"}]
    rows = answer.rows.to_pylist()
    assert [(row["conversation_id"], row["turn"]) for row in rows] == list_feedback_keys(chats)
    uncertain = {("c0", 6), ("c1", 2)}
    kept = [row for row in rows if (row["conversation_id"], row["turn"]) not in uncertain]
    assert kept == [row for row in local if (row["conversation_id"], row["turn"]) not in uncertain]
    assert [(row["judge"], row["dsat_score"]) for row in rows if row not in kept] == [
        ("openai:test", 8.0),  # "again", says the scripted model
        ("openai:test", 0.0),
    ]


def test_batches_with_nothing_to_ask_are_handed_on_one_by_one_and_no_server_is_needed(tmp_path: Path) -> None:
    read = []

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(5):
            read.append(number)
            yield batch(["9 a", "0 b"], first=number)

    with client(NOWHERE, tmp_path) as backend:
        judge = cascade(backend)
        for number, answer in enumerate(judge.judge(batches())):
            assert read == list(range(number + 1)) and answer.rows.num_rows == 2
        report = judge.report()
    assert report["requests"]["sent"] == report["requests"]["from_store"] == 0
    assert report["labelled"] == {"local:told": 10, "openai:test": 0}


def test_batches_come_in_order_whatever_order_their_answers_have(tmp_path: Path) -> None:
    def slow_first(body: Body, count: int) -> Reply:
        return Reply(scoring_answer(body), delay=0.3 if "question 0" in body["messages"][1]["content"] else 0)

    some = [batch(["9 a", "5 b"] if at % 3 == 0 else ["9 a"], first=at) for at in range(7)]
    with LLMServer(slow_first) as server, client(server.base_url, tmp_path) as backend:
        judge = cascade(backend)
        rows, _ = judged(judge, *some)
        assert server.received == 3 and server.most_at_once > 1  # read ahead of the slow answer
        assert judge.report()["labelled"] == {"local:told": 7, "openai:test": 3}
        assert judged(judge, *some)[0] == rows and server.received == 3
        assert judge.report()["labelled"] == {"local:told": 7, "openai:test": 3}  # of the last pass only
    assert [row[:2] for row in rows] == [key for one in some for key in list_feedback_keys(one)]


def test_a_turn_that_the_model_cannot_label_is_dropped_and_not_labelled_by_the_local_judge(
    tmp_path: Path,
) -> None:
    with LLMServer(lambda body, count: "no JSON") as server, client(server.base_url, tmp_path) as backend:
        rows, without = judged(cascade(backend), batch(["9 a", "5 b", "0 c"]))
        assert server.received == 3  # tries
    assert rows == [("c0", 2, "local:told"), ("c0", 6, "local:told")]
    assert without == [UnlabelledTurn("c0", 4, "invalid_answer", "not_json")]


def test_a_turn_without_a_local_score_is_asked_about(tmp_path: Path) -> None:
    with LLMServer(scoring_answer) as server, client(server.base_url, tmp_path) as backend:
        rows, without = judged(cascade(backend), batch(["none a", "9 b"]))
        assert asked(server) == [{2: "none a"}] and not without
    assert rows == [("c0", 2, "openai:test"), ("c0", 4, "local:told")]


def test_a_long_conversation_is_cut_where_it_always_is(tmp_path: Path) -> None:
    """25 turns make windows of 10, 10 and 5: the first is asked about whole, the second about one turn."""
    chat = [f"5 t{at}" for at in range(10)] + [f"{5 if at == 13 else 9} t{at}" for at in range(10, 25)]
    whole = exchanged(LLMJudge(Offline(), SAMPLING, RUBRIC), batch(chat))
    some = exchanged(cascade(Offline()), batch(chat))
    assert len(whole) == 3 and len(some) == 2 and some[0] == whole[0]
    with LLMServer(scoring_answer) as server, client(server.base_url, tmp_path) as backend:
        rows, _ = judged(cascade(backend), batch(chat))
        first, second = sorted(server.requests, key=lambda body: len(asked_messages(body)))[::-1]
    assert list(asked_messages(first)) == list(range(2, 22, 2)) and list(asked_messages(second)) == [28]
    user = second["messages"][1]["content"]
    # Turn 22 is the first of the second window: its reply is 21, and 4 messages stand before that.
    assert "The messages before [17] " in user and "[17] assistant\n" in user and "[29]" not in user
    assert [row[1] for row in rows] == list(range(2, 52, 2))


class Offline:
    """A backend for estimates: nothing is sent."""

    kind = "openai"


def exchanged(judge: LLMJudge | CascadeJudge, *batches: pa.RecordBatch) -> list[tuple[str, int]]:
    """Return key and number of turns of each request that would be made."""
    found = list(judge.plan_exchanges(batches))
    assert all(one.request is not None for one in found)
    return [(one.request.key, one.open_turns) for one in found if one.request]


@given(
    st.lists(st.lists(st.sampled_from(["0", "3", "9"]), max_size=9), max_size=5),
    st.integers(1, 4),
    st.integers(0, 3),
)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_windows_that_are_uncertain_throughout_make_the_requests_of_the_llm_judge(
    scores: list[list[str]], turns: int, context: int
) -> None:
    chats = batch(*([f"{score} t{at}" for at, score in enumerate(chat)] for chat in scores))
    options = ScoreOptions(window=WindowOptions(turns=turns, context=context))
    llm = LLMJudge(Offline(), SAMPLING, RUBRIC, options)  # type: ignore[arg-type]
    whole = exchanged(llm, chats)
    uncertain = [len([score for score in chat if score == "3"]) for chat in scores]
    some = exchanged(CascadeJudge(Told(), llm, Band(low=2, high=8)), chats)
    assert sum(count for _, count in some) == sum(uncertain)
    assert exchanged(CascadeJudge(Told(), llm, Band(low=0, high=100)), chats) == whole
    assert exchanged(CascadeJudge(Told(), llm, Band(low=100, high=101)), chats) == []
    windows = [chat[at : at + turns] for chat in scores for at in range(0, len(chat), turns)]
    for (key, count), window in zip(whole, windows, strict=True):
        assert ((key, count) in some) == (set(window) == {"3"})


def test_options_tell_both_judges_and_the_band() -> None:
    judge = cascade(Offline(), Band(low=1, high=3))
    assert judge.name == "cascade:local:told+openai:test" and judge.rubric == RUBRIC
    llm = LLMJudge(Offline(), SAMPLING, RUBRIC)  # type: ignore[arg-type]
    assert judge.options == {"band": {"low": 1, "high": 3}, "local": {}, "llm": llm.options}
    json.dumps(judge.options)


def test_judges_of_two_rubrics_make_no_cascade() -> None:
    item = RubricItem(name="Anger", polarity="DSAT", definition="the user is angry")
    mine = Rubric(name="mine", items=(item,))
    llm = LLMJudge(Offline(), SAMPLING, mine)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"RUBRIC= names mine .*JUDGE=openai"):
        CascadeJudge(LocalJudge(), llm, Band())


@pytest.mark.parametrize(("low", "high"), [(5, 5), (8, 2)])
def test_a_band_that_holds_nothing_is_an_error(low: float, high: float) -> None:
    with pytest.raises(ValueError, match=rf"low \({low}\) must be below high \({high}\).*JUDGE=local"):
        Band(low=low, high=high)
