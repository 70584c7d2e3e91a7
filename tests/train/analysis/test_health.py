"""Health of an iteration: figures checked against plain arithmetic and a second, unbatched forward in float64."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from drift_data.publish.cards.model import write_model_card
from drift_data.report.options import AlarmOptions
from drift_data.schema import ROLLOUTS
from drift_data.workspace import MANIFEST, Workspace
from drift_train import loop
from drift_train.analysis import likelihood
from drift_train.analysis.likelihood import mean_per_token, score_replies
from drift_train.analysis.stage import measure_health
from drift_train.analysis.variety import (
    measure_distinct_over_all,
    measure_distinct_within_replies,
    measure_mean_cosine_distance,
)
from drift_train.models.find import find_model
from drift_train.models.load import load_renderer
from drift_train.models.log_probs import CheckError
from drift_train.options import HealthOptions
from tests.helpers.loop_workspace import OPTIONS, make_workspace
from tests.helpers.random_policy import make_policy
from tests.helpers.training_rows import user, write_table

pytestmark = pytest.mark.slow

KEY = ("conversation_id", "turn", "kind", "sample")


@pytest.fixture(scope="module")
def finished(policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_workspace(tmp_path_factory.mktemp("health"))
    gentle = OPTIONS.train.model_copy(update={"learning_rate": 2e-5})  # M1 must still end its replies
    loop.iterate(workspace, "r", 2, str(policy), OPTIONS.model_copy(update={"warm": None, "train": gentle}))
    return workspace


def log_prob(folder: Path, prompt: list[int], reply: list[int]) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
    return float(torch.log_softmax(logits, -1)[range(len(reply)), reply].sum())


def test_each_reply_is_scored_by_the_three_models_it_names(finished: Workspace, policy: Path) -> None:
    rollouts = {
        tuple(row[name] for name in KEY): row for row in finished.read("runs/r/iter2/rollouts").to_pylist()
    }
    rows = finished.read("runs/r/iter2/health").to_pylist()
    assert {tuple(row[name] for name in KEY) for row in rows} == rollouts.keys()
    tokenizer = AutoTokenizer.from_pretrained(policy)
    folders = {
        "log_prob": finished.path("runs/r/iter1/model"),
        "log_prob_base": policy,
        "log_prob_after": finished.path("runs/r/iter2/model"),
    }
    for row in rows[:4]:
        rollout = rollouts[tuple(row[name] for name in KEY)]
        prompt = tokenizer.apply_chat_template(rollout["messages"], add_generation_prompt=True)["input_ids"]
        assert row["tokens"] == len(rollout["token_ids"])
        for name, folder in folders.items():
            assert row[name] == pytest.approx(log_prob(folder, prompt, rollout["token_ids"]), rel=1e-5)


def test_kl_is_the_mean_log_ratio_over_tokens(finished: Workspace) -> None:
    rows = finished.read("runs/r/iter2/health").to_pylist()
    results = finished.require("runs/r/iter2/health").results
    tokens = sum(row["tokens"] for row in rows)
    for name, other in (("kl_base", "log_prob_base"), ("kl_step", "log_prob_after")):
        mean = sum(row["log_prob"] - row[other] for row in rows) / tokens
        assert results[name]["mean"] == pytest.approx(mean, abs=1e-8)
        assert mean != 0
        assert results[name]["n"] == len(rows)


def test_kl_to_the_base_is_zero_while_the_policy_is_the_base(finished: Workspace) -> None:
    results = finished.require("runs/r/iter1/health").results  # no warm start: M0 is the base
    assert results["kl_base"] == {"mean": 0.0, "stderr": 0.0, "n": 12}
    assert results["kl_step"]["mean"] != 0


def test_lengths_ends_and_filters_are_of_all_rollouts(finished: Workspace) -> None:
    rollouts = finished.read("runs/r/iter1/rollouts").to_pylist()
    results = finished.require("runs/r/iter1/health").results
    lengths = [len(row["token_ids"]) for row in rollouts]
    assert results["replies"] == results["measured"] == len(rollouts)
    assert results["tokens"]["mean"] == pytest.approx(sum(lengths) / len(lengths), abs=0.005)
    assert results["tokens"]["p50"] == np.percentile(lengths, 50)
    assert results["tokens"]["p10"] == pytest.approx(np.percentile(lengths, 10), abs=0.005)
    assert sum(results["finish_reasons"].values()) == len(rollouts)


def test_a_reply_of_no_token_is_counted_and_not_measured(finished: Workspace, tmp_path: Path) -> None:
    workspace, name = Workspace(tmp_path), "runs/r/iter1/rollouts"
    rows = finished.read(name).to_pylist()
    rows[0].update(completion="", token_ids=[], finish_reason="length")
    write_table(workspace, name, ROLLOUTS, rows)
    for folder in ("runs/r/iter0/model", "runs/r/iter1/model"):
        shutil.copytree(finished.path(folder), workspace.path(folder))
        manifest = finished.require(folder).model_copy(update={"inputs": {}})
        (workspace.path(folder) / MANIFEST).write_text(manifest.model_dump_json())
    base = find_model(workspace, "runs/r/iter0/model")
    measure_health(workspace, "r", 1, base, HealthOptions())
    results = workspace.require("runs/r/iter1/health").results
    assert (results["replies"], results["measured"]) == (len(rows), len(rows) - 1)
    assert sum(results["finish_reasons"].values()) == len(rows)
    assert math.isfinite(results["diversity"])


def test_what_does_not_fit_into_memory_is_not_measured_and_the_run_goes_on(
    finished: Workspace, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(folder: Path, dtype: torch.dtype) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(likelihood, "load_model", full)
    options = HealthOptions(replies=3)
    assert not measure_health(finished, "r", 1, find_model(finished, str(policy)), options)
    assert "runs/r/iter1/health is not measured" in (said := capsys.readouterr().err)
    assert "loop.health=null" in said
    assert not (finished.root / ".tmp").exists()


def test_without_health_nothing_is_measured(policy: Path, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    loop.iterate(workspace, "r", 1, str(policy), OPTIONS.model_copy(update={"warm": None, "health": None}))
    assert workspace.manifest("runs/r/iter1/model")
    assert workspace.manifest("runs/r/iter1/health") is None


def test_fewer_replies_are_measured_than_there_are_and_both_numbers_are_said(
    finished: Workspace, policy: Path
) -> None:
    base = find_model(finished, str(policy))
    measure_health(finished, "r", 1, base, HealthOptions(replies=5))
    first = finished.read("runs/r/iter1/health")
    results = finished.require("runs/r/iter1/health").results
    assert (results["replies"], results["measured"], first.num_rows) == (12, 5, 5)
    assert results["tokens"]["mean"] > 0
    ids = set(first["conversation_id"].to_pylist())
    measure_health(finished, "r", 1, base, HealthOptions(replies=7))
    assert ids < set(finished.read("runs/r/iter1/health")["conversation_id"].to_pylist())


def test_scores_do_not_depend_on_the_batch(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = load_renderer(policy)
    rows = [renderer.render_pair(user("please list " * (i + 1)), "apple pear " * (9 - i)) for i in range(9)]
    together, embedded = score_replies(policy, rows, "t", embed=True)
    monkeypatch.setattr(likelihood, "_MAX_BATCH_TOKENS", 1)
    apart, alone = score_replies(policy, rows, "t", embed=True)
    assert together == pytest.approx(apart, rel=1e-5)
    assert torch.allclose(embedded, alone, atol=1e-5)
    assert together[0] == pytest.approx(log_prob(policy, *rows[0]), rel=1e-5)


def test_a_broken_model_stops_the_measurement(tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "broken")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(CheckError, match="not finite"):
        score_replies(folder, [([5, 6], [7, 8])], "t")


def test_distinct_is_the_share_of_ngrams_that_are_no_repeats() -> None:
    loop_, varied = [1, 2, 1, 2, 1], [3, 4, 5]
    assert measure_distinct_within_replies([loop_, varied]) == {
        "1": 0.7,
        "2": 0.75,
        "3": round((2 / 3 + 1) / 2, 6),
    }
    # 8 words, 5 of them different; 6 pairs: 12 21 12 21 34 45
    assert measure_distinct_over_all([loop_, varied]) == {"1": 0.625, "2": round(4 / 6, 6), "3": 0.75}
    assert (
        measure_distinct_over_all([varied, varied])["1"] == 0.5
    )  # equal replies: each is fine, together they repeat
    assert measure_distinct_within_replies([[1], []]) == {"1": 1.0, "2": None, "3": None}


def test_cosine_distance_is_the_mean_over_pairs() -> None:
    assert measure_mean_cosine_distance(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])) == pytest.approx(
        2 / 3
    )
    assert measure_mean_cosine_distance(torch.ones(4, 3)) == pytest.approx(0)
    assert measure_mean_cosine_distance(torch.ones(1, 3)) is None


def test_the_error_of_a_token_mean_is_that_of_replies() -> None:
    assert mean_per_token([2.0, 4.0, 6.0], [1, 2, 3]) == {"mean": 2.0, "stderr": 0.0, "n": 3}
    found = mean_per_token([1.0, 3.0], [1, 1])
    assert found["stderr"] == pytest.approx(math.sqrt(2) / math.sqrt(2))  # s = √2 of two values, over √2


def test_the_models_card_says_how_to_load_it_and_that_works(
    finished: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    card = write_model_card(finished, "r", 2, AlarmOptions()).read_text()
    assert "after 2 iterations of DPO" in card
    assert "saved in `float32`" in card
    code = card.split("```python\n")[1].split("```")[0]
    folder = str(finished.path("runs/r/iter2/model"))
    exec(code.replace("runs/r/iter2/model", folder).replace("512", "4"), {})
    assert "<|im_start|>assistant" in capsys.readouterr().out
