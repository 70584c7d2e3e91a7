"""Shards: what is kept of a run that was cut, what is taken from there, and what is never taken."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from drift_data.workspace import name_part_file
from drift_train.models.log_probs import CheckError
from drift_train.options import EvalOptions, PolicySamplingOptions
from drift_train.rollout import sampler as sampler_module
from drift_train.rollout.engine import EngineError, EngineReply, EngineStartError, ShardReplies
from drift_train.rollout.engines.transformers import TransformersEngine
from drift_train.rollout.recheck import LogProbError
from drift_train.rollout.sampler import Sampler
from drift_train.rollout.shards import read_shard, write_shard
from tests.helpers.asking import OPTIONS, make_requests, sample
from tests.helpers.random_policy import make_policy

pytestmark = pytest.mark.slow


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the shards that the transformers engine has sampled."""
    sizes: list[int] = []
    real = TransformersEngine.collect

    def counting(engine: TransformersEngine) -> list[EngineReply]:
        replies = real(engine)
        sizes.append(len(replies))
        return replies

    monkeypatch.setattr(TransformersEngine, "collect", counting)
    return sizes


def test_replies_do_not_depend_on_the_shards(policy: Path, tmp_path: Path) -> None:
    asked = make_requests(policy)
    whole = sample(policy, asked, OPTIONS, tmp_path)
    parts = sample(policy, asked, OPTIONS, tmp_path, shard=7)
    assert parts.tokens == whole.tokens
    assert {key: r.finish_reason for key, r in parts.replies.items()} == {
        key: r.finish_reason for key, r in whole.replies.items()
    }


def test_one_engine_serves_all_shards(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collected: list[int]
) -> None:
    starts: list[object] = []
    real = TransformersEngine.start
    monkeypatch.setattr(TransformersEngine, "start", lambda self: (starts.append(self), real(self))[1])
    sample(policy, make_requests(policy), OPTIONS, tmp_path, shard=15)
    assert len(starts) == 1
    assert collected == [15, 15, 10]


@pytest.mark.parametrize("taken", [1, 20, 39])
def test_after_a_cut_only_the_missing_shards_are_sampled(
    policy: Path, tmp_path: Path, collected: list[int], taken: int
) -> None:
    asked, keep = make_requests(policy), tmp_path / "keep"
    options = OPTIONS.model_copy(update={"shard": 8})
    undisturbed = sample(policy, asked, options, tmp_path)
    collected.clear()
    with Sampler(policy, options, keep, tmp_path, "t") as sampler:
        for count, _ in enumerate(sampler.sample(asked, len(asked)), 1):
            if count == taken:
                break
    finished = math.ceil(taken / 8)
    assert collected == [8] * finished
    resumed = sample(policy, asked, options, tmp_path, keep)
    assert collected == [8] * 5  # none twice
    assert resumed.replies == undisturbed.replies  # log-probabilities included
    assert resumed.made_by == undisturbed.made_by
    sample(policy, asked, options, tmp_path, keep)
    assert collected == [8] * 5


def test_shards_that_were_asked_something_else_are_not_taken(
    policy: Path, tmp_path: Path, collected: list[int]
) -> None:
    asked, keep = make_requests(policy, 16), tmp_path / "keep"
    sample(policy, asked, OPTIONS, tmp_path, keep, shard=8)
    sample(policy, asked, OPTIONS, tmp_path, keep, shard=16)
    assert collected == [8, 8, 16]
    sample(policy, asked[::-1], OPTIONS, tmp_path, keep, shard=8)
    assert collected == [8, 8, 16, 8, 8]


def test_a_shard_that_was_written_by_half_is_not_taken(policy: Path, tmp_path: Path) -> None:
    asked, keep = make_requests(policy, 8), tmp_path / "keep"
    undisturbed = sample(policy, asked, OPTIONS, tmp_path, keep)
    (whole,) = keep.iterdir()
    content = whole.read_bytes()
    whole.unlink()
    name_part_file(whole).write_bytes(content[: len(content) // 2])
    assert sample(policy, asked, OPTIONS, tmp_path, keep).replies == undisturbed.replies
    assert [path.name for path in keep.iterdir()] == [whole.name]


def test_a_shard_reads_back_as_it_was_written(tmp_path: Path) -> None:
    replies = [EngineReply(3, [5, 2], "stop", [-0.1, -1e-9]), EngineReply(1, [], "length", [])]
    shard = ShardReplies(replies, "server", "bfloat16", {"served_model": "a", "n": 1})
    write_shard(tmp_path / "a.parquet", shard)
    assert read_shard(tmp_path / "a.parquet") == shard


def test_every_shard_is_rechecked(policy: Path, tmp_path: Path) -> None:
    asked = make_requests(policy)
    assert sample(policy, asked, OPTIONS, tmp_path, shard=4).made_by["rechecked_rows"] == 10
    assert sample(policy, asked, OPTIONS, tmp_path, shard=20).made_by["rechecked_rows"] == 8
    assert sample(policy, asked, OPTIONS, tmp_path, recheck=3).made_by["rechecked_rows"] == 3


def test_a_higher_recheck_looks_at_kept_replies_and_samples_none_again(
    policy: Path, tmp_path: Path, collected: list[int]
) -> None:
    asked = make_requests(policy, 16)
    assert (
        sample(policy, asked, OPTIONS, tmp_path, tmp_path, shard=8, recheck=2).made_by["rechecked_rows"] == 2
    )
    before = list(collected)
    assert (
        sample(policy, asked, OPTIONS, tmp_path, tmp_path, shard=8, recheck=12).made_by["rechecked_rows"]
        == 12
    )
    assert collected == before


def test_no_recheck_is_said_aloud(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_by = sample(policy, make_requests(policy, 4), OPTIONS, tmp_path, recheck=0).made_by
    assert made_by["rechecked_rows"] == 0
    assert "recheck is 0, so it is not checked" in capsys.readouterr().err


def test_a_wrongly_loaded_checkpoint_stops_the_run_and_only_its_shards_are_thrown_away(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, collected: list[int]
) -> None:
    """The engine that goes on after a cut loads another model."""
    other = make_policy(tmp_path / "other", seed=1)
    asked, keep = make_requests(policy, 24), tmp_path / "keep"
    options = OPTIONS.model_copy(update={"shard": 8})
    with Sampler(policy, options, keep, tmp_path, "t") as sampler:
        next(sampler.sample(asked, len(asked)))
    (good,) = keep.iterdir()
    real = TransformersEngine.start

    def wrong(engine: TransformersEngine) -> None:
        engine._policy = other
        real(engine)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "start", wrong)
        with pytest.raises(LogProbError, match="did not sample from this checkpoint"):
            sample(policy, asked, options, tmp_path, keep)
    assert list(keep.iterdir()) == [good]
    collected.clear()
    assert (
        sample(policy, asked, options, tmp_path, keep).tokens
        == sample(policy, asked, options, tmp_path).tokens
    )
    assert collected[:2] == [8, 8]


def test_log_probs_that_are_no_numbers_stop_the_run(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TransformersEngine.collect
    monkeypatch.setattr(
        TransformersEngine,
        "collect",
        lambda self: [
            EngineReply(r.key, r.token_ids, r.finish_reason, [math.nan] * len(r.log_probs))
            for r in real(self)
        ],
    )
    with pytest.raises(CheckError):
        sample(policy, make_requests(policy, 4), OPTIONS, tmp_path)


def test_a_run_that_goes_on_with_another_engine_says_so(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, keep = make_requests(policy, 16), tmp_path / "keep"
    sample(policy, asked, OPTIONS, tmp_path, keep, shard=8)
    first, second = sorted(keep.iterdir())
    made = read_shard(first)
    write_shard(first, ShardReplies(made.replies, "vllm", "float32", {}))  # as if vllm had made it
    second.unlink()

    def no_vllm(sampler: Sampler, name: str, progress: Any) -> Any:
        if name == "vllm":
            raise EngineStartError("no such kernel")
        return real(sampler, name, progress)

    real = Sampler._make_engine
    monkeypatch.setattr(Sampler, "_make_engine", no_vllm)
    made_by = sample(policy, asked, OPTIONS, tmp_path, keep, shard=8, engine="auto").made_by
    assert made_by["engine"] == "vllm + transformers"
    assert made_by["instead_of_vllm"] == "no such kernel"
    assert "no such kernel; sampling with transformers" in capsys.readouterr().err


def test_memory_holds_two_shards_of_requests(policy: Path, tmp_path: Path) -> None:
    asked, taken = make_requests(policy, 24), []

    def stream() -> Any:
        for request in asked:
            taken.append(request.key)
            yield request

    options = OPTIONS.model_copy(update={"shard": 4})
    with Sampler(policy, options, tmp_path / "keep", tmp_path, "t") as sampler:
        for number, _ in enumerate(sampler.sample(stream(), len(asked))):
            assert len(taken) <= (number // 4 + 2) * 4


def test_no_request_starts_no_engine(policy: Path, tmp_path: Path, collected: list[int]) -> None:
    samples = sample(policy, [], OPTIONS, tmp_path)
    assert (samples.replies, samples.made_by, collected) == ({}, {"engine": None}, [])


def test_what_does_not_determine_replies_is_no_part_of_a_stages_identity() -> None:
    plain = PolicySamplingOptions(engine="vllm").identity()
    spread = PolicySamplingOptions(
        engine="vllm",
        shard=10,
        batch_size=1,
        recheck=20,
        vllm={"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5, "max_num_seqs": 8},
    )
    assert spread.identity() == plain
    for change in (
        {"temperature": 0.8},
        {"engine": "transformers"},
        {"recheck": 0},
        {"vllm": {"quantization": "fp8"}},
        {"samples": 2},
    ):
        changed = PolicySamplingOptions.model_validate({"engine": "vllm", **change})
        assert changed.identity() != plain, change
    assert json.loads(json.dumps(EvalOptions().identity())) == EvalOptions().identity()


def test_data_parallelism_in_one_process_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="--data-parallel-size and take engine: server"):
        PolicySamplingOptions(vllm={"data_parallel_size": 2})
    assert PolicySamplingOptions(vllm={"tensor_parallel_size": 2}).vllm == {"tensor_parallel_size": 2}


def test_replies_that_did_not_end_are_never_kept(policy: Path, tmp_path: Path) -> None:
    asked = make_requests(policy, 2)
    replies = [EngineReply(0, [5], "stop", [-1.0]), EngineReply(1, [5], "error", [-1.0])]
    with pytest.raises(EngineError, match="ended 1 of 2 replies with finish_reason 'error'"):
        sampler_module._check_complete("vllm", asked, replies)
