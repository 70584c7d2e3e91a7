import pytest
from pydantic import ValidationError

from drift_train.methods.options import LoopOptions
from drift_train.options import (
    EvalOptions,
    PairOptions,
    RewardOptions,
    RolloutOptions,
    TrainOptions,
)


def test_defaults_are_the_papers_values() -> None:
    options = LoopOptions()
    train = options.train.model_dump(
        include={
            "beta", "alpha", "learning_rate", "scheduler", "warmup_ratio", "optimizer", "epochs", "global_batch",
            "per_device_batch", "max_length", "gradient_checkpointing", "reference", "seed",
        }
    )  # fmt: skip
    assert train == {
        "beta": 0.1,
        "alpha": 0.001,
        "learning_rate": 5e-7,
        "scheduler": "linear",
        "warmup_ratio": 0.1,
        "optimizer": "rmsprop",
        "epochs": 1,
        "global_batch": 32,
        "per_device_batch": 4,
        "max_length": 2048,
        "gradient_checkpointing": True,
        "reference": "previous",
        "seed": 42,
    }
    assert options.warm == TrainOptions(epochs=3)
    rollout = options.rollout
    assert (rollout.temperature, rollout.top_p, rollout.max_new_tokens) == (0.7, 0.9, 512)
    assert (rollout.max_prompt_tokens, rollout.samples, options.is_guided) == (2048, 1, True)


def test_evaluation_samples_at_temperature_one() -> None:
    assert (EvalOptions().temperature, EvalOptions().top_p) == (1.0, 1.0)


@pytest.mark.parametrize(
    "model", [LoopOptions, PairOptions, RewardOptions, RolloutOptions, TrainOptions, EvalOptions]
)
def test_an_unknown_option_is_an_error(model: type[LoopOptions]) -> None:
    with pytest.raises(ValidationError, match="lerning_rate"):
        model.model_validate({"lerning_rate": 1})


def test_a_global_batch_that_cannot_be_accumulated_is_an_error() -> None:
    with pytest.raises(ValidationError, match="not a multiple"):
        TrainOptions(global_batch=32, per_device_batch=5)


@pytest.mark.parametrize(
    ("method", "examples", "guided"),
    [
        ("drift", "logs", True),
        ("iterdpo", "logs", True),
        ("spin", "logs", False),
        ("drift", "preferences", False),
        ("iterdpo", "preferences", False),
        ("spin", "preferences", False),
    ],
)
def test_guidance_is_the_papers_unless_it_is_set(method: str, examples: str, guided: bool) -> None:
    values = {"method": method, "examples": examples, "reward": {}}
    assert LoopOptions.model_validate(values).rollout_options().guidance is guided
    for choice in (True, False):
        values["rollout"] = {"guidance": choice}
        assert LoopOptions.model_validate(values).is_guided is choice


def test_iterdpo_without_guidance_samples_twice_and_ranks() -> None:
    unguided = LoopOptions.model_validate({"method": "iterdpo", "examples": "preferences", "reward": {}})
    assert (unguided.rollout_options().samples, unguided.ranking) == (2, RewardOptions())
    guided = LoopOptions(method="iterdpo", reward=RewardOptions())
    assert (guided.rollout_options().samples, guided.ranking) == (1, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "spinn"}, "'drift', 'spin' or 'iterdpo'"),
        ({"examples": "dsat"}, "'logs' or 'preferences'"),
        ({"method": "iterdpo", "examples": "preferences"}, r"compares samples.*loop\.reward\.model="),
        ({"rollout": {"select": "best", "samples": 4}}, r"select: best needs a reward model"),
        ({"rollout": {"select": "best"}, "reward": {}}, r"raise rollout\.samples"),
        ({"rollout": {"select": "worst"}}, "'first' or 'best'"),
    ],
)
def test_options_that_cannot_work_say_so_before_anything_runs(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        LoopOptions.model_validate(values)


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": False},
        {"report_to": ["wandb"]},
        {"checkpoint_steps": 7},
        {"launch": "gpu1"},
    ],
)
def test_an_option_that_changes_no_model_makes_none_again(changes: dict[str, object]) -> None:
    assert TrainOptions.model_validate(changes).identity() == TrainOptions().identity()


def test_an_option_that_changes_the_model_makes_it_again() -> None:
    apart = {"gradient_checkpointing", "report_to", "checkpoint_steps", "launch"}
    assert TrainOptions().identity().keys() == TrainOptions.model_fields.keys() - apart
