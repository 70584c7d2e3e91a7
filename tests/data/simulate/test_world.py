"""The simulated task: requests and replies read back as written, and are scored by what they hold."""

from random import Random

import pytest

from drift_data.simulate.world import (
    DIMENSIONS,
    ListTask,
    compute_gold_reward,
    compute_gold_strict,
    draw_random_task,
    find_current_task,
    find_faults,
    parse_reply,
    parse_request,
    spoil,
    word_request,
    write_reply,
)

TASK = ListTask(3, "fruits", "numbered", "hello", "bye", True)
REQUEST = "give me three fruits as a numbered list. start with hello and end with bye. put a star after each."
PERFECT = "Hello!\n1. pear *\n2. plum *\n3. apple *\nBye!"


def asked(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def test_a_request_reads_back_as_its_task_whatever_the_wording() -> None:
    rng = Random(0)
    for _ in range(500):
        task = draw_random_task(rng)
        assert parse_request(word_request(task, rng)) == task


def test_a_reply_reads_back_as_what_it_holds() -> None:
    rng = Random(1)
    for _ in range(500):
        held = spoil(draw_random_task(rng), [d for d in DIMENSIONS if rng.random() < 0.5], rng)
        assert parse_reply(write_reply(held, rng)) == held


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_spoiling_one_dimension_fails_exactly_that_one(dimension: str) -> None:
    rng = Random(2)
    for _ in range(50):
        task = draw_random_task(rng)
        reply = write_reply(spoil(task, [dimension], rng), rng)
        assert find_faults(task, parse_reply(reply)) == [dimension]
        assert compute_gold_reward(asked(word_request(task, rng)), reply) == pytest.approx(5 / 6)


def test_gold_reward_of_replies_written_by_hand() -> None:
    prompt = asked(REQUEST)
    assert compute_gold_reward(prompt, PERFECT) == 1
    assert compute_gold_strict(prompt, PERFECT) == 1
    for reply, share in {
        "": 0,
        "I do not know": 0,
        "Hello!": 1 / 6,
        "Hello!\n1. pear *\n2. plum *\n3. apple *": 5 / 6,  # no closing line
        "1. pear *\n2. plum *\n3. apple *\nBye!": 5 / 6,  # no opening line
        "Hello!\n- pear *\n- plum *\n- apple *\nBye!": 5 / 6,
        "Hello!\nItems: pear *, plum *, apple *\nBye!": 5 / 6,
        "Hello!\n1. pear\n2. plum *\n3. apple *\nBye!": 5 / 6,  # one star short
        "Hello!\n1. pear *\n2. plum *\n3. dog *\nBye!": 5 / 6,  # one is no fruit
        "Hello!\n1. pear *\n2. plum *\nBye!": 5 / 6,
        "Sure!\n- dog\n- cat\nEnjoy!": 0,
        PERFECT + "\n4. plum *": 1 / 6,  # goes on after the end: only the opening still holds
    }.items():
        assert compute_gold_reward(prompt, reply) == pytest.approx(share), reply
        assert compute_gold_strict(prompt, reply) == 0, reply


def test_the_task_is_the_last_request_even_after_a_complaint() -> None:
    other = "list two dogs"
    second = "now name two cities in one line. begin with sure and finish with enjoy."
    prompt = asked(REQUEST, PERFECT, f"thanks! {second}", other, "i asked for two")
    assert find_current_task(prompt) == ListTask(2, "cities", "plain", "sure", "enjoy", False)
    assert compute_gold_reward(prompt, "Sure!\nItems: rome, oslo\nEnjoy!") == 1


def test_a_prompt_without_a_request_is_an_error_and_not_a_score() -> None:
    with pytest.raises(ValueError, match="no request"):
        compute_gold_reward(asked("hello there"), PERFECT)
