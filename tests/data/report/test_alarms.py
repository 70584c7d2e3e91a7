import pytest

from drift_data.report.alarms import (
    AlarmOptions,
    ModelReplies,
    check_length_ratio,
    check_replies,
    check_training,
    compute_end_medians,
)
from tests.helpers.sample_workspace import metrics

OPTIONS = AlarmOptions()


def steps(**columns):
    names = {"margin": "rewards/margins", "chosen": "rewards/chosen", "accuracy": "rewards/accuracies"}
    return [
        {names[key]: value for key, value in zip(columns, values, strict=True)}
        for values in zip(*columns.values(), strict=True)
    ]


def alarms(iterations):
    return {(check.name, check.where) for check in check_training(iterations, OPTIONS) if check.alarm}


def test_a_healthy_run_has_no_alarm():
    checks = check_training({1: metrics(1), 2: metrics(2)}, OPTIONS)
    assert len(checks) == 6
    assert [check.alarm for check in checks] == [False] * 6


def test_margin_that_falls_back_toward_zero_alarms():
    rising = [0.01 * n for n in range(20)]
    assert alarms({1: steps(margin=rising + rising[::-1])}) == {("margin falling toward 0", "M1")}
    assert alarms({1: steps(margin=rising)}) == set()


def test_margin_that_never_rises_alarms():
    assert alarms({1: steps(margin=[0.0] * 20)}) == {("margin falling toward 0", "M1")}


def test_margin_that_fades_from_one_iteration_to_the_next_alarms():
    found = alarms(
        {k: steps(margin=[end * n / 20 for n in range(20)]) for k, end in ((1, 0.1), (2, 0.06), (3, 0.03))}
    )
    assert found == {("margin falling toward 0", "M3")}


def test_the_warm_start_sets_no_mark_for_the_margin_of_iterations():
    high, low = ([end * n / 20 for n in range(20)] for end in (1.0, 0.1))
    assert alarms({0: steps(margin=high), 1: steps(margin=low)}) == set()


def test_one_odd_batch_is_no_alarm():
    margins = [0.01 * n for n in range(15)]
    margins[7] = 5.0
    assert alarms({1: steps(margin=margins)}) == set()


def test_chosen_replies_that_become_less_likely_alarm_while_the_margin_grows():
    collapse = steps(margin=[0.1 * n for n in range(20)], chosen=[-0.02 * n for n in range(20)])
    assert alarms({6: collapse}) == {("chosen replies less likely", "M6")}


def test_accuracy_flat_at_a_half_alarms():
    assert alarms({1: steps(accuracy=[0.45, 0.55] * 10)}) == {("accuracy flat at 0.5", "M1")}
    assert alarms({1: steps(accuracy=[0.5 + 0.02 * n for n in range(20)])}) == set()


def test_a_few_steps_say_nothing():
    checks = check_training({0: steps(margin=[0.0] * 4, accuracy=[0.5] * 4)}, OPTIONS)
    assert [check.alarm for check in checks] == [None, None]


def test_lengths_alarm_in_both_directions():
    found = [check_length_ratio("length", "M1", ratio, OPTIONS).alarm for ratio in (0.5, 0.7, 1.0, 1.4, 1.6)]
    assert found == [True, False, False, False, True]


@pytest.mark.parametrize(
    ("model", "alarm"),
    [
        (ModelReplies("M1", score=0.9, stderr=0.01, tokens=100.0, distinct=0.9), None),
        (ModelReplies("M1", score=0.9, stderr=0.01, tokens=40.0, distinct=0.9), "replies longer or shorter"),
        (ModelReplies("M1", score=0.9, stderr=0.01, tokens=100.0, distinct=0.5), "replies repeat themselves"),
        (ModelReplies("M1", score=0.7, stderr=0.01, tokens=100.0, distinct=0.9), "score below base's"),
    ],
)
def test_replies_are_held_against_the_base_models(model, alarm):
    base = ModelReplies("base", score=0.8, stderr=0.01, tokens=100.0, distinct=0.95)
    found = [check.name for check in check_replies([base, model], OPTIONS) if check.alarm]
    assert len(found) == (alarm is not None)
    assert all(name.startswith(alarm) for name in found)


def test_a_score_is_held_against_the_best_so_far():
    models = [ModelReplies("base", 0.5, 0.01), ModelReplies("M1", 0.9, 0.01), ModelReplies("M2", 0.7, 0.01)]
    assert [(c.name, c.where) for c in check_replies(models, OPTIONS) if c.alarm] == [
        ("score below M1's", "M2")
    ]


def test_ends_are_medians_of_the_outer_fifths():
    assert compute_end_medians([1.0]) == (1.0, 1.0)
    assert compute_end_medians([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 100]) == (1, 13)
