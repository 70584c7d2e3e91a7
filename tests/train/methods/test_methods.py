"""Each method by the paper's table 1: where it reads, what the policy is rollout_prompt, which reply is which."""

from dataclasses import replace

import pytest

from drift_train.methods import METHODS
from drift_train.methods.base import (
    GUIDED,
    PLAIN,
    Method,
    Reply,
    rollout_prompt,
    sort_by_reward,
    training_prompt,
)
from drift_train.methods.examples import Example
from tests.helpers.training_rows import assistant, user

DRIFT, SPIN, ITERDPO = METHODS["drift"], METHODS["spin"], METHODS["iterdpo"]
PROMPT = [{"role": "system", "content": "be short"}, *user("hi"), *assistant("hello"), *user("list fruits")]
EXAMPLE = Example("c1", 4, "train", PROMPT, "apple", "blue", "wrong colour")


def texts(method: Method, samples: dict[str, list[Reply]]) -> list[tuple[str, str]]:
    return [(chosen.text, rejected.text) for chosen, rejected in method.pair_replies(EXAMPLE, samples)]


def answers(*texts: str) -> list[Reply]:
    return [Reply(text) for text in texts]


def ranked(**rewards: float) -> list[Reply]:
    return [Reply(text, reward=reward) for text, reward in rewards.items()]


def test_a_guided_prompt_is_x_then_the_rejected_reply_then_complaint_and_instruction() -> None:
    assert rollout_prompt(GUIDED, EXAMPLE, PROMPT, "Do it again.") == [
        *PROMPT,
        *assistant("blue"),
        *user("wrong colour\n\nDo it again."),
    ]


def test_a_plain_prompt_is_x() -> None:
    assert rollout_prompt(PLAIN, EXAMPLE, PROMPT, "Do it again.") == PROMPT


def test_the_training_prompt_is_x_whatever_was_rollout_prompt() -> None:
    for kind in (GUIDED, PLAIN):
        assert training_prompt(kind, rollout_prompt(kind, EXAMPLE, PROMPT, "Do it again.")) == PROMPT


@pytest.mark.parametrize("changes", [{"feedback": None}, {"feedback": ""}, {"rejected": None}])
def test_nothing_is_guided_without_a_failing_reply_and_a_complaint(changes: dict[str, None]) -> None:
    example = replace(EXAMPLE, **changes)
    assert not example.can_guide
    with pytest.raises(ValueError, match="no failing reply"):
        rollout_prompt(GUIDED, example, PROMPT, "Do it again.")


@pytest.mark.parametrize(
    ("method", "guided", "logs", "kinds", "logged"),
    [
        (DRIFT, True, "dsat", [GUIDED], "blue"),
        (DRIFT, False, "dsat", [PLAIN], "blue"),
        (SPIN, True, "seed", [GUIDED], "apple"),
        (SPIN, False, "sat", [PLAIN], "apple"),
        (ITERDPO, True, "dsat", [GUIDED, PLAIN], None),
        (ITERDPO, False, "dsat", [PLAIN], None),
    ],
)
def test_what_a_method_reads_and_samples(
    method: Method, guided: bool, logs: str, kinds: list[str], logged: str | None
) -> None:
    assert method.examples_table("logs", guided) == logs
    assert method.examples_table("preferences", guided) == "preferences"
    assert list(method.rollout_kinds(guided)) == kinds
    assert method.logged_reply(EXAMPLE) == logged


def test_drift_chooses_the_sample_and_rejects_the_logged_reply() -> None:
    assert texts(DRIFT, {GUIDED: answers("pear", "plum")}) == [("pear", "blue"), ("plum", "blue")]
    assert texts(DRIFT, {PLAIN: answers("pear")}) == [("pear", "blue")]


def test_spin_chooses_the_good_reply_and_rejects_the_sample() -> None:
    assert texts(SPIN, {PLAIN: answers("pear", "plum")}) == [("apple", "pear"), ("apple", "plum")]
    assert texts(SPIN, {GUIDED: answers("pear")}) == [("apple", "pear")]


def test_a_revised_reply_is_known_to_be_written_in_view_of_the_complaint() -> None:
    for revised in (True, False):
        ((chosen, _),) = SPIN.pair_replies(replace(EXAMPLE, revised=revised), {GUIDED: answers("pear")})
        assert chosen == Reply("apple", informed=revised)


def test_guided_iterdpo_chooses_the_guided_sample_and_rejects_the_plain_one() -> None:
    assert texts(ITERDPO, {PLAIN: answers("fish"), GUIDED: answers("pear")}) == [("pear", "fish")]
    several = {GUIDED: answers("g0", "g1"), PLAIN: answers("p0", "p1")}
    assert texts(ITERDPO, several) == [("g0", "p0"), ("g0", "p1"), ("g1", "p0"), ("g1", "p1")]


def test_ranked_samples_are_taken_sort_by_reward() -> None:
    samples = ranked(pear=1.0, plum=-2.0, fig=3.0)
    assert texts(DRIFT, {GUIDED: samples}) == [("fig", "blue"), ("pear", "blue"), ("plum", "blue")]
    assert texts(SPIN, {PLAIN: samples}) == [("apple", "fig"), ("apple", "pear"), ("apple", "plum")]


def test_guided_iterdpo_with_rewards_sets_the_best_against_the_worst() -> None:
    samples = {GUIDED: ranked(g0=0.0, g1=1.0), PLAIN: ranked(p0=-1.0, p1=5.0)}
    assert texts(ITERDPO, samples) == [("g1", "p0"), ("g1", "p1"), ("g0", "p0"), ("g0", "p1")]


def test_unguided_iterdpo_ranks_by_the_distance_of_rewards_best_against_worst_first() -> None:
    assert texts(ITERDPO, {PLAIN: ranked(a=0.0, b=3.0, c=2.0)}) == [("b", "a"), ("c", "a"), ("b", "c")]
    assert texts(ITERDPO, {PLAIN: ranked(a=-2.0, b=-1.0)}) == [("b", "a")]


def test_unguided_iterdpo_makes_no_pair_of_equal_rewards() -> None:
    assert texts(ITERDPO, {PLAIN: ranked(a=1.0, b=1.0)}) == []
    assert texts(ITERDPO, {PLAIN: ranked(a=1.0, b=1.0, c=0.0)}) == [("a", "c"), ("b", "c")]


def test_unguided_iterdpo_without_rewards_is_a_fault() -> None:
    with pytest.raises(ValueError, match="they need rewards"):
        texts(ITERDPO, {PLAIN: answers("a", "b")})


def test_samples_of_equal_reward_stay_in_the_order_of_sampling() -> None:
    assert [answer.text for answer in sort_by_reward(ranked(a=1.0, b=2.0, c=1.0))] == ["b", "a", "c"]
    assert [answer.text for answer in sort_by_reward(answers("b", "a"))] == ["b", "a"]
