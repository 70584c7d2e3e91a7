"""A training that is killed goes on and ends as one that was left alone: same metrics, same weights, on the CPU.

Each killed run is a process of its own, which SIGKILLs its own process group at the moment under test.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drift_train.dpo import checkpoints
from drift_train.dpo import train as dpo
from drift_train.dpo import trainer as dpo_trainer
from drift_train.dpo.checkpoints import find_resume_point, mark_complete
from drift_train.dpo.metrics import MetricsWriter
from drift_train.options import LoraOptions, TrainOptions
from tests.helpers.dpo_kills import outcome, run
from tests.helpers.dpo_runs import OPTIONS
from tests.helpers.killable import SERVER
from tests.helpers.random_policy import make_policy

pytestmark = pytest.mark.slow

TWO_EPOCHS = OPTIONS.model_copy(update={"epochs": 2, "checkpoint_steps": 2})  # 12 pairs in fours: 6 steps
LORA = TWO_EPOCHS.model_copy(update={"lora": LoraOptions(rank=4), "optimizer": "adamw_torch"})

WHOLE = "whole weights, trained in float32"


def die() -> None:
    os.killpg(0, signal.SIGKILL)


class Step:
    """Die when the metrics of a step were written, or before."""

    def __init__(self, step: int, *, before: bool = False) -> None:
        self.step, self.before = step, before

    def __call__(self) -> None:
        plain = MetricsWriter.on_log

        def log(writer: Any, args: Any, state: Any, *rest: Any, **kwargs: Any) -> None:
            at = state.global_step == self.step
            if at and self.before:
                die()
            plain(writer, args, state, *rest, **kwargs)
            if at:
                die()

        MetricsWriter.on_log = log


class HalfCheckpoint:
    """Die in saving checkpoint `step`, at the call of one of transformers' methods."""

    def __init__(self, step: int, method: str) -> None:
        self.step, self.method = step, method

    def __call__(self) -> None:
        plain = getattr(dpo_trainer._Trainer, self.method)

        def save(trainer: Any, *args: Any, **kwargs: Any) -> Any:
            if trainer.state.global_step == self.step:
                die()
            return plain(trainer, *args, **kwargs)

        setattr(dpo_trainer._Trainer, self.method, save)


def in_saving_the_model() -> None:
    def save(model: Any, source: Path, target: Path, weights: Any = None) -> None:
        model.save_pretrained(target)
        die()

    dpo.save_model = save


def in_precomputing() -> None:
    dpo_trainer.save_file = lambda *_: die()


def in_the_first_batch() -> None:
    dpo.check_first_batch = lambda *_, **__: die()


def before_publishing() -> None:
    plain = dpo.train

    def train(*args: Any, **kwargs: Any) -> None:
        plain(*args, **kwargs)
        die()

    dpo.train = train


def start(policy: Path, folder: Path, options: TrainOptions, kill: Callable[[], None] | None) -> int | None:
    folder.mkdir(exist_ok=True)
    process = SERVER.Process(target=run, args=(policy, folder, options, kill))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    found = {}
    for name, options in (("full", TWO_EPOCHS), ("lora", LORA)):
        folder = tmp_path_factory.mktemp(name)
        policy = make_policy(folder / "policy")
        assert start(policy, folder, options, None) == 0
        found[name] = policy, outcome(folder)
    return found


@pytest.mark.parametrize(
    ("kill", "goes_on_from"),
    [
        (in_precomputing, 0),
        (in_the_first_batch, 0),
        (Step(1), 0),
        (Step(3), 2),
        (Step(4, before=True), 2),  # the last step of an epoch is in no checkpoint yet
        (Step(5), 4),
        (HalfCheckpoint(2, "_save_optimizer_and_scheduler"), 0),
        (HalfCheckpoint(4, "_save_rng_state"), 2),
        (in_saving_the_model, 6),
        (before_publishing, 6),
    ],
    ids=lambda value: (
        getattr(value, "__name__", None) or str(vars(value) if hasattr(value, "step") else value)
    ),
)
def test_a_killed_training_ends_as_an_undisturbed_one(
    kill: Callable[[], None], goes_on_from: int, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    policy, expected = undisturbed["full"]
    assert start(policy, tmp_path, TWO_EPOCHS, kill) == -signal.SIGKILL
    assert (tmp_path / "metrics.jsonl").exists() == (kill is before_publishing)
    point, rows = find_resume_point(
        tmp_path / "unfinished" / "training", tmp_path / "metrics.partial.jsonl", WHOLE
    )
    assert (checkpoints.parse_step(point) if point else 0) == goes_on_from == len(rows)
    assert start(policy, tmp_path, TWO_EPOCHS, None) == 0
    assert outcome(tmp_path) == expected


def test_killed_again_and_again_it_still_ends_the_same(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    policy, expected = undisturbed["lora"]
    for kill in (Step(3), HalfCheckpoint(4, "_save_scaler"), Step(5), in_saving_the_model):
        assert start(policy, tmp_path, LORA, kill) == -signal.SIGKILL
    assert start(policy, tmp_path, LORA, None) == 0
    assert outcome(tmp_path) == expected


def test_a_checkpoint_is_taken_only_when_it_is_whole_and_has_its_metrics(tmp_path: Path) -> None:
    metrics = tmp_path / "m.jsonl"
    for step in (2, 4, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert find_resume_point(tmp_path, metrics, WHOLE) == (None, [])
    mark_complete(tmp_path / "checkpoint-2", WHOLE)
    assert find_resume_point(tmp_path, metrics, WHOLE) == (None, [])  # the metrics are gone
    metrics.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 12)) + '{"step": 1')
    point = find_resume_point(tmp_path, metrics, WHOLE)
    assert point == (tmp_path / "checkpoint-2", [{"step": 1}, {"step": 2}])
    mark_complete(tmp_path / "checkpoint-10", WHOLE)
    assert find_resume_point(tmp_path, metrics, WHOLE)[0] == tmp_path / "checkpoint-10"  # not by the alphabet
    checkpoints.remove_broken(tmp_path, tmp_path / "checkpoint-10")
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-10"]


def test_a_checkpoint_of_other_weights_is_passed_over_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = tmp_path / "m.jsonl"
    metrics.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 5)))
    for step, how in ((2, WHOLE), (4, "split weights")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        mark_complete(tmp_path / f"checkpoint-{step}", how)
    assert find_resume_point(tmp_path, metrics, "split weights")[0] == tmp_path / "checkpoint-4"
    assert not capsys.readouterr().err
    assert find_resume_point(tmp_path, metrics, WHOLE)[0] == tmp_path / "checkpoint-2"
    said = f"cannot resume from checkpoint-4: it has split weights, this run {WHOLE} (options train.launch"
    assert said in capsys.readouterr().err


def test_precisions_are_not_mixed(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """As when a run was cut on a GPU and goes on where there is none: neither its steps nor its reference are taken."""
    policy, expected = undisturbed["full"]
    in_bf16 = TWO_EPOCHS.model_copy(update={"precision": "bf16"})
    assert start(policy, tmp_path, in_bf16, Step(3)) == -signal.SIGKILL
    assert start(policy, tmp_path, TWO_EPOCHS, None) == 0
    assert outcome(tmp_path) == expected


def test_more_steps_between_checkpoints_do_not_throw_away_those_that_are_there(
    undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """`checkpoint_steps` may change between a kill and the next run; six steps and more write none."""
    policy, expected = undisturbed["full"]
    assert start(policy, tmp_path, TWO_EPOCHS, Step(5)) == -signal.SIGKILL
    none = TWO_EPOCHS.model_copy(update={"checkpoint_steps": 100})
    assert start(policy, tmp_path, none, Step(4)) == 0  # step 4 is not made again
    assert outcome(tmp_path) == expected


def test_a_short_training_keeps_no_checkpoints(policy: Path, tmp_path: Path) -> None:
    run_here = TWO_EPOCHS.model_copy(update={"checkpoint_steps": 6})
    assert start(policy, tmp_path, run_here, None) == 0
    assert not list((tmp_path / "unfinished").rglob("checkpoint-*"))
