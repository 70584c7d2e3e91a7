import pytest
from pydantic import ValidationError

from drift_train.options import EvalOptions, LoopOptions, PairOptions, RolloutOptions, TrainOptions


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
    assert (rollout.max_prompt_tokens, rollout.samples, rollout.guidance) == (2048, 1, True)


def test_evaluation_samples_at_temperature_one() -> None:
    assert (EvalOptions().temperature, EvalOptions().top_p) == (1.0, 1.0)


@pytest.mark.parametrize("model", [LoopOptions, PairOptions, RolloutOptions, TrainOptions, EvalOptions])
def test_an_unknown_option_is_an_error(model: type[LoopOptions]) -> None:
    with pytest.raises(ValidationError, match="lerning_rate"):
        model.model_validate({"lerning_rate": 1})


def test_a_global_batch_that_cannot_be_accumulated_is_an_error() -> None:
    with pytest.raises(ValidationError, match="no multiple"):
        TrainOptions(global_batch=32, per_device_batch=5)


def test_preferences_have_no_complaint_to_guide_with() -> None:
    with pytest.raises(ValidationError, match="guidance"):
        LoopOptions(examples="preferences")
    LoopOptions(examples="preferences", rollout=RolloutOptions(guidance=False))
