"""Which answers of a scoring request count, turn by turn."""

import json
from dataclasses import replace

import pytest

from drift_data.judge.quoting import quote_text
from drift_data.judge.rubric import load_rubric
from drift_data.judge.spur.answer import is_quoted_from, make_answer_schema, read_answer
from drift_data.judge.spur.exchange import WindowExchange
from drift_data.judge.spur.options import WindowOptions
from drift_data.judge.spur.prompt import ScoringPrompts
from drift_data.judge.spur.windows import cut_windows
from drift_data.llm.request import LENGTH, Answer, Sampling

RUBRIC = load_rubric()
MESSAGES = {2: "No, that’s wrong. Do it again", 4: "Thanks! Now write a poem."}
CHAT = [
    {"role": "user", "content": "Add 2 and 2"},
    {"role": "assistant", "content": "5"},
    {"role": "user", "content": MESSAGES[2]},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": MESSAGES[4]},
]


def turn(number, item=None, evidence="", **more):
    items = [{"name": item, "strength": 8}] if item else []
    return {"turn": number, "act": "redo", "items": items, "evidence": evidence, "refusal": "no"} | more


def answer(*turns):
    return json.dumps({"turns": turns})


def faults(text):
    reading = read_answer(text, MESSAGES, RUBRIC.polarities)
    assert reading.turns.keys() | reading.faults.keys() == MESSAGES.keys()
    assert not reading.turns.keys() & reading.faults.keys()
    return dict(reading.faults)


def test_a_whole_answer_counts():
    assert faults(answer(turn(2, "Revision", "do it again"), turn(4, "Gratitude", "Thanks!"))) == {}
    assert faults(answer(turn(4), turn(2))) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {2: "not_json", 4: "not_json"}),
        ("I think both are DSAT.", {2: "not_json", 4: "not_json"}),
        (answer(turn(2))[:-3], {2: "not_json", 4: "not_json"}),
        (answer(turn(2), turn(4), turn(6)), {2: "unknown_turn", 4: "unknown_turn"}),
        (answer(turn(2), turn(2), turn(4)), {2: "doubled_turn"}),
        (answer(turn(4)), {2: "missing_turn"}),
        (answer(turn(2, "Boredom", "wrong"), turn(4)), {2: "unknown_item"}),
        (answer(turn(2, "Revision", "write a poem"), turn(4)), {2: "evidence_not_in_message"}),
        (answer(turn(2, "Revision", ""), turn(4)), {2: "evidence_not_in_message"}),
        (answer(turn(2, "Revision", " … "), turn(4)), {2: "evidence_not_in_message"}),
        (answer(turn(2, refusal="maybe"), turn(4)), {2: "not_json", 4: "not_json"}),
        (answer(turn(2) | {"label": "SAT"}, turn(4)), {2: "not_json", 4: "not_json"}),
        (
            answer(turn(2, items=[{"name": "Style", "strength": 11}]), turn(4)),
            {2: "not_json", 4: "not_json"},
        ),
        (answer(turn("2"), turn(4)), {}),  # a number in quotation marks is the same number
    ],
)
def test_what_is_wrong_with_an_answer_is_said_turn_by_turn(text, expected):
    assert faults(text) == expected


@pytest.mark.parametrize(
    ("evidence", "there"),
    [
        ("that's wrong", True),  # another apostrophe
        ("THAT’S  WRONG.", True),
        ("…wrong. Do it", True),
        ("that is wrong", False),
        ("...", False),
    ],
)
def test_evidence_is_compared_without_case_white_space_and_the_shape_of_quotation_marks(evidence, there):
    assert is_quoted_from(evidence, MESSAGES[2]) is there


@pytest.mark.parametrize(
    ("evidence", "message", "there"),
    [
        ("caf\u00e9 is wrong", "The cafe\u0301 is wrong", True),  # one character or two
        ("wrong again", "that is wrong\r\nagain", True),
        ("wrong again", "that is \u202ewrong\u200f again\ufeff", True),
        ("...", "...", True),  # all there is
        ("?!", " ?! ", True),
        ("wrong", "\u202e", False),
        ("\u200b", "fine", False),
        ("", "", False),
    ],
)
def test_evidence_is_what_the_model_reads_whatever_its_bytes(evidence, message, there):
    assert is_quoted_from(evidence, quote_text(message, 1_000)) is there


def exchange(tries=3):
    (window,) = cut_windows(CHAT, WindowOptions())
    return WindowExchange(
        window, ScoringPrompts(RUBRIC, WindowOptions()), RUBRIC, Sampling(model="m", max_tokens=100), tries
    )


def test_only_what_could_not_be_used_is_asked_again_and_the_request_says_why():
    task = exchange()
    first = task.request
    task.receive(Answer(answer(turn(2, "Revision", "write a poem"), turn(4, "Gratitude", "Thanks"))))
    again = task.request
    assert "Judge these messages and no others: [2]." in again.user
    assert "its evidence does not occur in the judged message" in again.user
    assert "[4] user\n" in again.user and "[4] user, to judge" in first.user
    assert again.key != first.key and again.system == first.system
    task.receive(Answer(answer(turn(2, "Revision", "do it again"))))
    assert task.request is None and task.unlabelled == {}
    assert {number: [i.name for i in a.items] for number, a in task.answers.items()} == {
        2: ["Revision"],
        4: ["Gratitude"],
    }


def test_a_turn_that_no_answer_can_be_used_for_has_no_label_but_a_reason():
    task = exchange(tries=2)
    task.receive(Answer("no"))
    task.receive(Answer(answer(turn(4))))
    assert task.request is None
    assert task.unlabelled == {2: ("invalid_answer", "missing_turn")} and list(task.answers) == [4]


def test_a_cut_off_answer_is_asked_again_with_twice_the_room():
    task = exchange()
    task.receive(Answer(answer(turn(2), turn(4)), finish_reason=LENGTH))
    again = task.request
    assert task.answers == {} and again.sampling.max_tokens == 200
    assert replace(again, sampling=Sampling(model="m", max_tokens=100)).key != again.key
    assert replace(again, sampling=Sampling(model="m", max_tokens=200)).key == again.key
    task.receive(Answer("", finish_reason=LENGTH))
    task.receive(Answer("", finish_reason=LENGTH))
    assert task.unlabelled == dict.fromkeys((2, 4), ("invalid_answer", "truncated"))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (Answer(finish_reason="content_filter"), ("content_filter", None)),
        (Answer("I cannot", finish_reason="refusal"), ("model_refused", None)),
        (Answer(error="request_failed", detail="500"), ("request_failed", "500")),
        (Answer(error="over_budget"), ("over_budget", None)),
    ],
)
def test_what_would_come_out_the_same_again_is_not_asked_again(given, reason):
    task = exchange()
    task.receive(given)
    assert task.request is None and task.unlabelled == {2: reason, 4: reason}


def test_the_schema_names_the_turns_and_the_items_and_allows_nothing_else():
    turns = make_answer_schema(RUBRIC, [2, 4]).schema["properties"]["turns"]["items"]
    assert turns["properties"]["turn"]["enum"] == [2, 4]
    names = turns["properties"]["items"]["items"]["properties"]["name"]["enum"]
    assert names == [item.name for item in RUBRIC.items] and len(names) == 18
    assert turns["additionalProperties"] is False and turns["required"] == list(turns["properties"])
