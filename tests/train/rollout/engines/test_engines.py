"""Both engines on one tiny model: what they sample is what plain transformers says it is."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from drift_data.machine import end_process
from drift_train.models.load import load_model, load_renderer
from drift_train.models.log_probs import CheckError, compute_log_probs
from drift_train.options import TrainOptions
from drift_train.rollout.engine import EngineError, EngineStartError, SampleRequest
from drift_train.rollout.engines import vllm as vllm_engine
from drift_train.rollout.engines import vllm_worker
from drift_train.rollout.engines.transformers import SeededSampling
from drift_train.rollout.recheck import check_prompt_tokens, recheck_log_probs
from tests.helpers.asking import OPTIONS, Samples, make_requests, sample
from tests.helpers.dpo_runs import make_pairs, train
from tests.helpers.random_policy import make_policy

pytestmark = pytest.mark.slow

HAS_VLLM = importlib.util.find_spec("vllm") is not None


def all_log_probs_agree(policy: Path, samples: Samples, asked: list[SampleRequest]) -> None:
    model = load_model(policy, torch.float32)
    for request in asked:
        reply = samples.replies[request.key]
        exact = compute_log_probs(model, request.prompt_ids, reply.token_ids)
        assert torch.allclose(exact, torch.tensor(reply.log_probs), atol=1e-3, rtol=0)


def test_a_reply_depends_on_its_seed_and_not_on_its_batch(policy: Path, tmp_path: Path) -> None:
    asked = make_requests(policy)
    first = sample(policy, asked, OPTIONS, tmp_path)
    second = sample(policy, asked[::-1], OPTIONS, tmp_path, batch_size=3, shard=7)
    assert first.tokens == second.tokens
    reseeded = [SampleRequest(r.key, r.messages, r.prompt_ids, r.seed + 1) for r in asked]
    assert sample(policy, reseeded, OPTIONS, tmp_path).tokens != first.tokens


def test_transformers_engine_reports_the_log_probs_of_a_plain_forward(policy: Path, tmp_path: Path) -> None:
    asked = make_requests(policy)
    samples = sample(policy, asked, OPTIONS, tmp_path)
    all_log_probs_agree(policy, samples, asked)
    assert samples.made_by["engine"] == "transformers"
    assert samples.made_by["rechecked_rows"] == 8
    assert samples.made_by["largest_log_prob_difference"] <= 1e-3


def test_a_reply_ends_with_its_one_end_token_or_stopped_for_length(policy: Path, tmp_path: Path) -> None:
    (end,) = load_renderer(policy).ends
    samples = sample(policy, make_requests(policy, 200), OPTIONS, tmp_path)
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


def test_tokens_about_equal_in_probability_do_not_change_places_with_the_rounding() -> None:
    """Eight likely tokens within rounding of each other, two unlikely ones outside the nucleus."""
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, -9.0, 0.0, 0.0, 0.0, 0.0, -9.0, 0.0, 0.0, 0.0]]).repeat(1_000, 1)
    uniforms = torch.rand(1_000, 1, dtype=torch.float64)
    drawn = [
        SeededSampling(uniforms, 0.7, 0.99)(torch.zeros(1_000, 1), noisy).argmax(-1)
        for noisy in (logits, logits + 1e-6 * torch.randn_like(logits))
    ]
    assert int((drawn[0] != drawn[1]).sum()) <= 1  # drawn in the order of probability: 7 of 8 differ
    expected = torch.tensor([0, 2, 3, 4, 5, 7, 8, 9])[(uniforms[:, 0] * 8).long()]
    assert torch.equal(drawn[0], expected)


def test_a_draw_stays_in_the_nucleus_at_both_ends() -> None:
    logits = torch.log(torch.tensor([[1e-9, 0.5, 0.3, 0.2, 1e-9, 1e-9]])).repeat(2, 1)
    ends = torch.tensor([[0.0], [1 - 2.0**-53]], dtype=torch.float64)
    assert SeededSampling(ends, 1.0, 0.9)(torch.zeros(2, 1), logits).argmax(-1).tolist() == [1, 3]


def test_temperature_zero_takes_the_most_probable_token() -> None:
    sampling = SeededSampling(torch.full((1, 1), 0.999, dtype=torch.float64), 0.0, 1.0)
    assert sampling(torch.zeros(1, 1), torch.tensor([[1.0, 3.0, 2.0]])).argmax() == 1


def test_the_models_own_sampling_defaults_do_not_leak_in(policy: Path, tmp_path: Path) -> None:
    shutil.copytree(policy, tmp_path / "model")
    from transformers import GenerationConfig

    (end,) = load_renderer(policy).ends
    own = GenerationConfig(eos_token_id=end, repetition_penalty=5.0, do_sample=True, top_k=1, temperature=0.1)
    own.save_pretrained(tmp_path / "model")
    asked = make_requests(policy)
    theirs = sample(tmp_path / "model", asked, OPTIONS, tmp_path)
    assert theirs.tokens == sample(policy, asked, OPTIONS, tmp_path).tokens


def test_samples_of_another_checkpoint_stop_the_run(policy: Path, tmp_path: Path) -> None:
    other = make_policy(tmp_path / "other", seed=1)
    asked = make_requests(policy, 4)
    samples = sample(other, asked, OPTIONS, tmp_path)
    rows = [(r.prompt_ids, samples.replies[r.key].token_ids, samples.replies[r.key].log_probs) for r in asked]
    recheck_log_probs(other, rows, "float32", "vllm")
    with pytest.raises(CheckError, match="did not sample from this checkpoint"):
        recheck_log_probs(policy, rows, "float32", "vllm")


def test_log_probs_after_temperature_stop_the_run(policy: Path, tmp_path: Path) -> None:
    asked = make_requests(policy, 4)
    samples = sample(policy, asked, OPTIONS, tmp_path)
    rows = [
        (r.prompt_ids, samples.replies[r.key].token_ids, [x / 0.7 for x in samples.replies[r.key].log_probs])
        for r in asked
    ]
    with pytest.raises(CheckError):
        recheck_log_probs(policy, rows, "float32", "vllm")


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
    samples = sample(policy, make_requests(policy, 2), OPTIONS, tmp_path, engine="auto")
    assert samples.made_by["engine"] == "transformers"
    assert samples.made_by["instead_of_vllm"] == "vllm is not installed"
    assert "sampling with transformers" in capsys.readouterr().err


@pytest.mark.usefixtures("no_vllm")
def test_vllm_asked_for_by_name_and_missing_is_a_clear_error(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match="not installed"):
        sample(policy, make_requests(policy, 2), OPTIONS, tmp_path, engine="vllm")


def python_that(does: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the child be a shell script; $3 is its job folder, $4 the pipe that it speaks on."""
    script = folder / "python"
    script.write_text(f"#!/bin/bash\n{does}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_an_engine_that_dies_while_sampling_is_a_clear_error(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_that("echo up float32 >&$4; read shard; echo killed >&2; kill -9 $$", tmp_path, monkeypatch)
    with pytest.raises(
        EngineError, match=r"died while sampling \(exit code -9: killed\).*finished are kept: run again"
    ):
        sample(policy, make_requests(policy, 2), OPTIONS, tmp_path, engine="vllm")
    assert not (tmp_path / "t-vllm.job").exists()  # no conversation stays behind
    assert (tmp_path / "t-vllm.log").read_text() == "killed\n"


@pytest.mark.parametrize(
    ("says", "knob"),
    [
        (
            "ValueError: Free memory on device cuda:0 (1.0/79.1 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 71.2 GiB).",
            "end it, or lower rollout.vllm.gpu_memory_utilization",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing it",
            "raise rollout.vllm.gpu_memory_utilization",
        ),
        (
            "ValueError: (5.6 GiB KV cache is needed, which is larger than the available KV cache memory (1.0 GiB).",
            "Lower rollout.max_prompt_tokens or rollout.max_new_tokens",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 130 MiB.",
            "rollout.vllm.max_num_seqs; or spread it over more GPUs by rollout.vllm.tensor_parallel_size",
        ),
    ],
)
def test_memory_that_is_short_at_the_start_names_the_option_that_helps(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, knob: str
) -> None:
    python_that(f"echo '{says}' >&2; echo 'RuntimeError: see above' >&2; exit 1", tmp_path, monkeypatch)
    with pytest.raises(EngineStartError) as error:
        sample(policy, make_requests(policy, 2), OPTIONS, tmp_path, engine="vllm")
    assert says in str(error.value) and knob in str(error.value)
    assert str(tmp_path / "t-vllm.log") in str(error.value)


@pytest.mark.skipif(not HAS_VLLM, reason="vllm is not installed")
def test_vllm_still_says_what_the_advice_is_looked_up_by() -> None:
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None
    v1 = Path(spec.origin).parent / "v1"
    words = (v1 / "worker/utils.py").read_text() + (v1 / "core/kv_cache_utils.py").read_text()
    plain = re.sub(r'"\s*f?"', "", words)
    assert [said for said in vllm_engine._MEMORY_ADVICE if said not in plain] == ["out of memory"]  # CUDA's


def test_a_reply_that_the_engine_gave_up_is_an_error(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = make_requests(policy, 1)[0].prompt_ids
    row = {"key": 0, "prompt_ids": prompt, "token_ids": [5], "finish_reason": "abort", "log_probs": [-1.0]}
    python_that(
        f"echo up float32 >&$4; read shard; echo '{json.dumps(row)}' > $3/replies-0.jsonl; echo done 0 >&$4; read end",
        tmp_path,
        monkeypatch,
    )
    keep = tmp_path / "keep"
    with pytest.raises(EngineError, match="ended 1 of 1 replies with finish_reason 'abort'"):
        sample(policy, make_requests(policy, 1), OPTIONS, tmp_path, keep, engine="vllm")
    assert not keep.exists()


def test_replies_that_are_missing_are_an_error(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_that(
        "echo up float32 >&$4; read shard; touch $3/replies-0.jsonl; echo done 0 >&$4; read end",
        tmp_path,
        monkeypatch,
    )
    with pytest.raises(CheckError, match="vllm engine answered 0 of 2 requests"):
        sample(policy, make_requests(policy, 2), OPTIONS, tmp_path, engine="vllm")


def test_the_engine_leaves_when_the_tool_was_killed_before_it_could_look(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child imports for seconds; it is told whom to watch, and does not ask who its parent is by then."""
    python_that(f"cp $3/job.json {tmp_path}; exit 9", tmp_path, monkeypatch)
    with pytest.raises(EngineStartError):
        sample(policy, make_requests(policy, 2), OPTIONS, tmp_path, engine="vllm")
    assert json.loads((tmp_path / "job.json").read_text())["parent"] == os.getpid()
    ended: list[int] = []
    monkeypatch.setattr(vllm_worker, "end_process", ended.append)
    vllm_worker._leave_with_parent(os.getpid()).join(timeout=10)  # not our parent: it is gone
    assert ended == [os.getpid()]


def test_an_engine_ends_with_all_its_processes(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    with subprocess.Popen(["sh", "-c", script]) as child:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.01)
        inner = psutil.Process(int((tmp_path / "pid").read_text()))
        end_process(child.pid)
    assert child.returncode == -signal.SIGKILL
    inner.wait(timeout=10)
    end_process(child.pid)  # gone already: nothing happens


@pytest.mark.skipif(not HAS_VLLM, reason="vllm is not installed")
def test_an_engine_that_does_not_start_is_replaced_when_auto_and_an_error_when_named(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python_that("echo no such kernel >&2; kill -ILL $$", tmp_path, monkeypatch)
    asked = make_requests(policy, 2)
    with pytest.raises(EngineStartError, match="no such kernel"):
        sample(policy, asked, OPTIONS, tmp_path, engine="vllm")
    samples = sample(policy, asked, OPTIONS, tmp_path, engine="auto")
    assert samples.made_by["engine"] == "transformers"
    assert "no such kernel" in samples.made_by["instead_of_vllm"]
    assert "no such kernel" in capsys.readouterr().err


@pytest.mark.skipif(not HAS_VLLM, reason="vllm is not installed")
def test_vllm_samples_from_a_trained_checkpoint_what_transformers_says(policy: Path, tmp_path: Path) -> None:
    """Tokens, log-probs, finish reasons and seeds of a real vLLM; and what is left when it is killed."""
    base = policy
    policy = tmp_path / "trained"
    training = TrainOptions(
        learning_rate=1e-4, global_batch=4, per_device_batch=4, max_length=128, gradient_checkpointing=False
    )
    train(base, policy, make_pairs(base), training)
    (end,) = load_renderer(policy).ends
    asked = make_requests(policy)
    twins = [SampleRequest(100 + r.key, r.messages, r.prompt_ids, r.seed) for r in asked]
    options = OPTIONS.model_copy(update={"engine": "vllm", "shard": 25})
    samples = sample(policy, [*asked, *twins], options, tmp_path)
    assert samples.made_by["engine"] == "vllm"
    assert samples.made_by["precision"] == "float32"
    assert samples.made_by["rechecked_rows"] == 8
    all_log_probs_agree(policy, samples, asked)
    model = load_model(base, torch.float32)
    exact = compute_log_probs(model, asked[0].prompt_ids, samples.replies[0].token_ids)
    assert float((exact - torch.tensor(samples.replies[0].log_probs)).abs().max()) > 1e-3  # not the base's
    drawn = samples.tokens
    assert {key: drawn[100 + key] for key in range(40)} == {key: drawn[key] for key in range(40)}
    assert len({tuple(drawn[key]) for key in range(40)}) > 20
    for reply in samples.replies.values():
        assert (reply.finish_reason == "stop") == (reply.token_ids[-1] == end)

    keep = tmp_path / "keep"
    killer = threading.Thread(target=kill_engine_after_first_shard, args=(keep,))
    killer.start()
    with pytest.raises(
        EngineError, match=r"vllm engine died while sampling \(exit code -9.*Run again|run again"
    ):
        sample(policy, [*asked, *twins], options, tmp_path, keep, shard=2)
    killer.join()
    kept = {path: path.stat().st_mtime_ns for path in keep.glob("*.parquet")}
    assert 1 <= len(kept) < 40
    resumed = sample(policy, [*asked, *twins], options, tmp_path, keep, shard=2)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # these were not sampled again
    assert resumed.tokens == drawn  # in shards of 2 or 25, killed or not
    assert not list(tmp_path.glob("*.job"))


def kill_engine_after_first_shard(keep: Path) -> None:
    while not list(keep.glob("*.parquet")):
        time.sleep(0.001)
    for child in psutil.Process().children():
        if any("vllm_worker" in word for word in child.cmdline()):
            child.kill()
