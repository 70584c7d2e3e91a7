"""Both engines on one tiny model: what they sample is what plain transformers says it is."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import make_policy, user
from test_dpo import make_pairs, train

from drift_train.checks import CheckError, check_prompt_tokens, log_probs, recheck_log_probs
from drift_train.engines import vllm as vllm_engine
from drift_train.engines import vllm_worker
from drift_train.engines.transformers import SeededSampling
from drift_train.options import SamplingOptions, TrainOptions
from drift_train.policy import load_model, load_renderer
from drift_train.rollout import EngineStartError, Request, Samples, request_seed, sample

OPTIONS = SamplingOptions(engine="transformers", max_prompt_tokens=128, max_new_tokens=24, batch_size=8)
HAS_VLLM = importlib.util.find_spec("vllm") is not None


def requests(policy: Path, count: int = 40, same: bool = False) -> list[Request]:
    renderer = load_renderer(policy)
    made = []
    for i in range(count):
        messages = user("please list") if same else user(f"please list {'red ' * (i % 5)}{i}")
        made.append(Request(i, messages, renderer.prompt(messages), request_seed(0, i)))
    return made


def tokens(samples: Samples) -> dict[int, list[int]]:
    return {key: reply.token_ids for key, reply in samples.replies.items()}


def all_log_probs_agree(policy: Path, samples: Samples, asked: list[Request]) -> None:
    model = load_model(policy, torch.float32)
    for request in asked:
        reply = samples.replies[request.key]
        exact = log_probs(model, request.prompt_ids, reply.token_ids)
        assert torch.allclose(exact, torch.tensor(reply.log_probs), atol=1e-3, rtol=0)


def test_a_reply_depends_on_its_seed_and_not_on_its_batch(policy: Path, tmp_path: Path) -> None:
    asked = requests(policy)
    first = sample(policy, asked, OPTIONS, tmp_path, "t")
    other = OPTIONS.model_copy(update={"batch_size": 3})
    second = sample(policy, asked[::-1], other, tmp_path, "t")
    assert tokens(first) == tokens(second)
    reseeded = [Request(r.key, r.messages, r.prompt_ids, r.seed + 1) for r in asked]
    assert tokens(sample(policy, reseeded, OPTIONS, tmp_path, "t")) != tokens(first)


def test_transformers_engine_reports_the_log_probs_of_a_plain_forward(policy: Path, tmp_path: Path) -> None:
    asked = requests(policy)
    samples = sample(policy, asked, OPTIONS, tmp_path, "t")
    all_log_probs_agree(policy, samples, asked)
    assert samples.made_by["engine"] == "transformers"
    assert samples.made_by["rechecked_rows"] == 8
    assert samples.made_by["largest_log_prob_difference"] <= 1e-3


def test_a_reply_ends_with_its_one_end_token_or_stopped_for_length(policy: Path, tmp_path: Path) -> None:
    (end,) = load_renderer(policy).ends
    samples = sample(policy, requests(policy, 200), OPTIONS, tmp_path, "t")
    reasons = {reply.finish_reason for reply in samples.replies.values()}
    assert reasons == {"stop", "length"}
    for key, reply in samples.replies.items():
        stopped = reply.finish_reason == "stop"
        assert reply.token_ids.count(end) == stopped
        assert (reply.token_ids[-1] == end) == stopped
        assert stopped or len(reply.token_ids) == OPTIONS.max_new_tokens
        assert "<|im_end|>" not in samples.texts[key]


def test_draws_follow_temperature_and_top_p() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    for temperature, top_p in ((1.0, 1.0), (0.7, 0.9), (2.0, 0.6)):
        exact = torch.softmax(logits.double() / temperature, -1)
        keep = exact.cumsum(0) - exact < top_p
        exact = torch.where(keep, exact, 0.0)
        exact /= exact.sum()
        uniforms = (torch.arange(20_000, dtype=torch.float64) + 0.5)[:, None] / 20_000  # every quantile once
        sampling = SeededSampling(uniforms, temperature, top_p)
        drawn = sampling(torch.zeros(20_000, 1), logits.repeat(20_000, 1)).argmax(-1)
        shares = torch.bincount(drawn, minlength=4) / 20_000
        assert torch.allclose(shares.double(), exact, atol=1e-4)
        assert torch.allclose(sampling.log_probs[0], logits[drawn])  # before temperature and top-p


def test_temperature_zero_takes_the_most_probable_token() -> None:
    sampling = SeededSampling(torch.full((1, 1), 0.999, dtype=torch.float64), 0.0, 1.0)
    assert sampling(torch.zeros(1, 1), torch.tensor([[1.0, 3.0, 2.0]])).argmax() == 1


def test_the_models_own_sampling_defaults_do_not_leak_in(policy: Path, tmp_path: Path) -> None:
    shutil.copytree(policy, tmp_path / "model")
    from transformers import GenerationConfig

    (end,) = load_renderer(policy).ends
    own = GenerationConfig(eos_token_id=end, repetition_penalty=5.0, do_sample=True, top_k=1, temperature=0.1)
    own.save_pretrained(tmp_path / "model")
    asked = requests(policy)
    theirs = sample(tmp_path / "model", asked, OPTIONS, tmp_path, "t")
    assert tokens(theirs) == tokens(sample(policy, asked, OPTIONS, tmp_path, "t"))


def test_samples_of_another_checkpoint_stop_the_run(policy: Path, tmp_path: Path) -> None:
    other = make_policy(tmp_path / "other", seed=1)
    asked = requests(policy, 4)
    samples = sample(other, asked, OPTIONS, tmp_path, "t")
    rows = [(r.prompt_ids, samples.replies[r.key].token_ids, samples.replies[r.key].log_probs) for r in asked]
    recheck_log_probs(other, rows, torch.float32, "vllm")
    with pytest.raises(CheckError, match="did not sample from this checkpoint"):
        recheck_log_probs(policy, rows, torch.float32, "vllm")


def test_log_probs_after_temperature_stop_the_run(policy: Path, tmp_path: Path) -> None:
    asked = requests(policy, 4)
    samples = sample(policy, asked, OPTIONS, tmp_path, "t")
    rows = [
        (r.prompt_ids, samples.replies[r.key].token_ids, [x / 0.7 for x in samples.replies[r.key].log_probs])
        for r in asked
    ]
    with pytest.raises(CheckError):
        recheck_log_probs(policy, rows, torch.float32, "vllm")


def test_a_prompt_rendered_otherwise_by_the_engine_stops_the_run() -> None:
    check_prompt_tokens("vllm", [1, 2], [1, 2])
    with pytest.raises(CheckError, match="another chat template"):
        check_prompt_tokens("vllm", [1, 2], [1, 2, 2])


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))


@pytest.mark.usefixtures("no_vllm")
def test_auto_takes_transformers_where_vllm_is_missing_and_says_so(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = sample(
        policy, requests(policy, 2), OPTIONS.model_copy(update={"engine": "auto"}), tmp_path, "t"
    )
    assert samples.made_by["engine"] == "transformers"
    assert samples.made_by["instead_of_vllm"] == "vllm is not installed"
    assert "sampling with transformers" in capsys.readouterr().err


@pytest.mark.usefixtures("no_vllm")
def test_vllm_asked_for_by_name_and_missing_is_a_clear_error(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="not installed"):
        sample(policy, requests(policy, 2), OPTIONS.model_copy(update={"engine": "vllm"}), tmp_path, "t")


def python_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the child be a shell script; $3 is its job folder."""
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_an_engine_that_dies_while_sampling_is_a_clear_error(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_that('echo "{}" > $3/engine.json; echo out of memory >&2; exit 9', tmp_path, monkeypatch)
    engine = vllm_engine.VllmEngine(policy, [2], tmp_path / "logs", "t")
    with pytest.raises(CheckError, match=r"exit code 9.*out of memory"):
        engine.sample(requests(policy, 2), OPTIONS)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == [
        "t-vllm.log"
    ]  # no conversation stays behind


def test_the_engine_leaves_when_the_tool_was_killed_before_it_could_look(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child imports for seconds; it is told whom to watch, and does not ask who its parent is by then."""
    python_that(f"cp $3/job.json {tmp_path}; exit 9", tmp_path, monkeypatch)
    with pytest.raises(EngineStartError):
        vllm_engine.VllmEngine(policy, [2], tmp_path / "logs", "t").sample(requests(policy, 2), OPTIONS)
    assert json.loads((tmp_path / "job.json").read_text())["parent"] == os.getpid()
    ended: list[int] = []
    monkeypatch.setattr(vllm_worker, "end_process", ended.append)
    vllm_worker._end_with_parent(os.getpid())  # not our parent: it is gone
    assert ended == [os.getpid()]


def test_an_engine_ends_with_all_its_processes(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    with subprocess.Popen(["sh", "-c", script]) as child:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        inner = psutil.Process(int((tmp_path / "pid").read_text()))
        vllm_engine.end_process(child.pid)
    assert child.returncode == -signal.SIGKILL
    inner.wait(timeout=10)
    vllm_engine.end_process(child.pid)  # gone already: nothing happens


@pytest.mark.skipif(not HAS_VLLM, reason="vllm is not installed")
def test_an_engine_that_does_not_start_is_replaced_when_auto_and_an_error_when_named(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python_that("echo no such kernel >&2; kill -ILL $$", tmp_path, monkeypatch)
    asked = requests(policy, 2)
    with pytest.raises(EngineStartError, match="no such kernel"):
        sample(policy, asked, OPTIONS.model_copy(update={"engine": "vllm"}), tmp_path, "t")
    samples = sample(policy, asked, OPTIONS.model_copy(update={"engine": "auto"}), tmp_path, "t")
    assert samples.made_by["engine"] == "transformers"
    assert "no such kernel" in samples.made_by["instead_of_vllm"]
    assert "no such kernel" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not HAS_VLLM, reason="vllm is not installed")
def test_vllm_samples_from_a_trained_checkpoint_what_transformers_says(policy: Path, tmp_path: Path) -> None:
    """The one engine start of the suite: tokens, log-probs, finish reasons and seeds of a real vLLM."""
    base = policy
    policy = tmp_path / "trained"
    options = TrainOptions(
        learning_rate=1e-4, global_batch=4, per_device_batch=4, max_length=128, gradient_checkpointing=False
    )
    train(base, policy, make_pairs(base), options)
    (end,) = load_renderer(policy).ends
    asked = requests(policy)
    twins = [Request(100 + r.key, r.messages, r.prompt_ids, r.seed) for r in asked]
    samples = sample(policy, [*asked, *twins], OPTIONS.model_copy(update={"engine": "vllm"}), tmp_path, "t")
    assert samples.made_by["engine"] == "vllm"
    assert samples.made_by["precision"] == "float32"
    all_log_probs_agree(policy, samples, asked)
    model = load_model(base, torch.float32)
    exact = log_probs(model, asked[0].prompt_ids, samples.replies[0].token_ids)
    assert float((exact - torch.tensor(samples.replies[0].log_probs)).abs().max()) > 1e-3  # not the base's
    drawn = tokens(samples)
    assert {key: drawn[100 + key] for key in range(40)} == {key: drawn[key] for key in range(40)}
    assert len({tuple(drawn[key]) for key in range(40)}) > 20
    for reply in samples.replies.values():
        assert (reply.finish_reason == "stop") == (reply.token_ids[-1] == end)
