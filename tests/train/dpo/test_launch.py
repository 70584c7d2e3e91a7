"""Training in two processes on the CPU, started as on several GPUs: same update, same errors, same resume."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from drift_data.workspace import UserError
from drift_train.dpo import trainer as dpo_trainer
from drift_train.dpo.launch import SHIPPED_CONFIGS, LaunchError, find_configuration
from drift_train.options import TrainOptions
from tests.helpers.dpo_kills import TIMING, outcome, run
from tests.helpers.dpo_runs import OPTIONS, make_pairs, train
from tests.helpers.killable import SERVER

CONFIG = (  # without a GPU each process falls back to the CPU, and they speak over gloo
    "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_machines: 1\nnum_processes: 2\n"
    "machine_rank: 0\nrdzv_backend: static\nmixed_precision: 'no'\nuse_cpu: false\n"
)
# of these TRL averages over the tokens of all processes what one process averages over its micro-batches
PER_TOKEN = {"entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("accelerate") / "two processes.yaml"
    path.write_text(CONFIG)
    return f"'{path}'"


def options(two: str, **changes: Any) -> TrainOptions:
    """Return 8 steps over 16 pairs, 4 an update: 1 a process, accumulated twice."""
    values = {"per_device_batch": 1, "epochs": 2, "checkpoint_steps": 2, "launch": two}
    return OPTIONS.model_copy(update=values | changes)


@pytest.mark.parametrize("log_probs", ["precompute", "live"])
def test_two_processes_train_as_one(policy: Path, tmp_path: Path, two: str, log_probs: str) -> None:
    pairs = make_pairs(policy, 16)
    found = [
        train(policy, tmp_path / name, pairs, options(two, launch=launch, reference_log_probs=log_probs))
        for name, launch in (("one", None), ("two", two))
    ]
    assert [row["step"] for row in found[1]] == list(range(1, 9))
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - TIMING - PER_TOKEN - {"method"}:
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
    one, other, start = (
        load_file(f / "model.safetensors") for f in (tmp_path / "one", tmp_path / "two", policy)
    )
    for name in one:
        assert (one[name] - other[name]).abs().max() < (one[name] - start[name]).abs().max() / 100
    assert {path.name for path in tmp_path.iterdir()} == {"one", "one.jsonl", "two", "two.jsonl"}


FSDP = "gpus8-fsdp2 --num_processes 2"  # as shipped; without GPUs accelerate splits nothing, so only our own side of it is seen here


def test_a_checkpoint_of_split_weights_is_gone_on_from_and_stops_no_run_without_them(
    policy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Cut in saving: all checkpoints are there. FSDP goes on from them, one process begins again and says so."""
    pairs, split = make_pairs(policy, 16), options("", launch=FSDP, epochs=1)
    (tmp_path / "first").write_text("a file where the model's folder should be")
    with pytest.raises(LaunchError):
        train(policy, tmp_path / "first", pairs, split, unfinished=tmp_path / "unfinished")
    partial = tmp_path / "first.partial.jsonl"
    kept = partial.read_text()
    assert kept.count("\n") == 4
    for name, launch in (("split", FSDP), ("whole", None)):
        (tmp_path / f"{name}.partial.jsonl").write_text(kept)
        changed = split.model_copy(update={"launch": launch})
        shutil.copytree(tmp_path / "unfinished", tmp_path / f"unfinished-{name}")
        train(policy, tmp_path / name, pairs, changed, unfinished=tmp_path / f"unfinished-{name}")
        assert ((tmp_path / f"{name}.jsonl").read_text() == kept) == (name == "split")
    assert "cannot resume from checkpoint-4: it has split weights" in capfd.readouterr().err


def test_split_weights_are_loaded_on_the_cpu_and_fsdps_reference_as_the_policy_is(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole model need not fit on a device; TRL would load the reference itself, and compute it otherwise."""
    made: dict[str, Any] = {}

    def stop(**arguments: Any) -> None:
        made.update(arguments)
        raise InterruptedError

    monkeypatch.setattr(dpo_trainer, "_Trainer", stop)
    monkeypatch.setattr(dpo_trainer, "choose_device", lambda: torch.device("meta"))
    for name in ("is_fsdp", "is_sharded"):
        monkeypatch.setattr(dpo_trainer, name, lambda: True)
    with pytest.raises(InterruptedError):
        train(policy, tmp_path / "model", make_pairs(policy))
    for model in (made["model"], made["ref_model"]):
        assert model.device.type == "cpu"
        assert model.base_model._forward_pre_hooks


def test_an_error_of_a_child_is_the_same_error_here(policy: Path, tmp_path: Path, two: str) -> None:
    with pytest.raises(UserError, match="not a multiple of the 8 pairs that all devices take at once"):
        train(policy, tmp_path / "model", make_pairs(policy), options(two, per_device_batch=4))
    with pytest.raises(LaunchError, match=r"exit code 2 .*launch\.log"):
        train(policy, tmp_path / "model", make_pairs(policy), options(f"{two} --no-such-argument"))
    assert "no-such-argument" in (tmp_path / "model.launch.log").read_text()


def test_a_killed_run_takes_its_processes_along_and_is_gone_on_with(
    policy: Path, tmp_path: Path, two: str
) -> None:
    """Only the run itself is killed; what it launched has to notice."""
    long = options(two, epochs=12, checkpoint_steps=5)  # 36 steps over 12 pairs
    (tmp_path / "calm").mkdir()
    for folder, killed in (("calm", False), ("cut", True), ("cut", False)):
        (tmp_path / folder).mkdir(exist_ok=True)
        process = SERVER.Process(target=run, args=(policy, tmp_path / folder, long, None))
        process.start()
        assert process.pid is not None
        if killed:
            psutil.Process(process.pid).nice(
                19
            )  # it gives way to this one, which has to see step 12 before step 36
            partial = tmp_path / folder / "metrics.partial.jsonl"
            while not partial.exists() or partial.read_text().count("\n") < 12:
                assert process.is_alive()
                time.sleep(0.02)
            children = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            _, alive = psutil.wait_procs(children, timeout=30)
            assert not alive
        process.join()
        assert process.exitcode == (-signal.SIGKILL if killed else 0)
    (calm, _), (cut, _) = outcome(tmp_path / "calm"), outcome(tmp_path / "cut")
    assert len(calm) == 36
    assert cut == calm
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("calm", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_configurations_are_found_by_name_or_file_with_arguments_behind(tmp_path: Path, two: str) -> None:
    names = {path.stem for path in SHIPPED_CONFIGS.glob("*.yaml")}
    assert names == {"gpu1", "gpus8-fsdp2", "gpus8-zero3", "multi-node-fsdp2"}
    path, further = find_configuration("multi-node-fsdp2 --machine_rank 1 --main_process_ip 10.0.0.1")
    assert path.stem == "multi-node-fsdp2"
    assert further == ["--machine_rank", "1", "--main_process_ip", "10.0.0.1"]
    assert find_configuration(two)[0].name == "two processes.yaml"
    with pytest.raises(UserError, match=r"'gpus9' is neither a file nor one of gpu1, gpus8-fsdp2"):
        find_configuration("gpus9")


@pytest.mark.parametrize("asked", ["--num_machines 2", "--num_machines=2", "--num-machines=2"])
def test_the_command_for_other_machines_runs_there(
    policy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
) -> None:
    """Whatever folder it is called in, and without our environment."""
    monkeypatch.setattr("drift_train.dpo.launch._run_to_end", lambda command, log: log.write_text("") or 1)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LaunchError):
        train(
            policy, Path("model"), make_pairs(policy), OPTIONS.model_copy(update={"launch": f"gpu1 {asked}"})
        )
    said = capsys.readouterr().err
    path, command = said.splitlines()[-1].split(maxsplit=1)
    assert (Path(path.removeprefix("PYTHONPATH=")) / "drift_train" / "dpo" / "worker.py").is_file()
    assert Path(shlex.split(command)[-1]).is_absolute()


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED_CONFIGS.glob("*.yaml")))
def test_accelerate_reads_the_shipped_configurations(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(SHIPPED_CONFIGS / f"{name}.yaml"))
    assert config.num_processes == {"gpu1": 1, "multi-node-fsdp2": 16}.get(name, 8)
