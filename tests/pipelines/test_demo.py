"""The demo, small: every stage once in one command, rollouts on vLLM, and what it says at the end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.recipe import load_recipe

MICRO = yaml.safe_load((Path(__file__).parent / "micro.yaml").read_text())


def flat(values: dict[str, object], prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        found += flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}={value}"]
    return found


@pytest.mark.slow
def test_the_demo_runs_on_vllm_and_says_what_came_out(tmp_path: Path) -> None:
    settings = flat({key: MICRO[key] for key in ("simulate", "loop", "evaluate")})
    settings = [s for s in settings if not s.startswith("loop.rollout.engine")] + ["loop.rollout.engine=vllm"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "pipelines", "demo", "--work", str(tmp_path), "--seed", "7", *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    manifests = {
        p.parent.relative_to(tmp_path): json.loads(p.read_text()) for p in tmp_path.rglob("manifest.json")
    }
    run = Path("runs/demo-drift")
    for k in (1, 2):
        assert manifests[run / f"iter{k}/rollouts"]["made_by"]["engine"] == "vllm"
    assert (
        manifests[Path("simulated/logs")]["options"]["seed"]
        == manifests[Path("base")]["options"]["seed"]
        == 7
    )

    cells = re.findall(r"│ +(\S[^│]*?) +│ +([\d,.]+) +│", done.stdout)
    shown = dict(reversed(cells))  # of equal names the first: the funnel's
    labels = manifests[Path("labels/local")]
    assert shown["conversations"] == str(manifests[Path("conversations")]["rows_out"])
    assert shown["feedback turns"] == str(labels["rows_in"])
    for label in ("SAT", "DSAT", "NEUTRAL"):
        assert shown[label] == str(labels["results"][label])
    assert shown["pairs kept, iter2"] == str(manifests[run / "iter2/pairs"]["rows_out"])
    for model, label in {"base": "base", "iter0": "M0", "iter1": "M1", "iter2": "M2"}.items():
        assert shown[label] == f"{manifests[run / model / 'eval']['results']['gold']['mean']:.3f}"
    report = re.search(r"The report: (\S+)", done.stdout.replace("\n", ""))
    assert report
    assert "report.html" in report[1]
    assert (tmp_path / run / "report.html").stat().st_size > 20_000

    for k in (1, 2):
        health = manifests[run / f"iter{k}/health"]["results"]
        assert health["measured"] == manifests[run / f"iter{k}/rollouts"]["rows_out"]
        card = (tmp_path / run / f"iter{k}/model/README.md").read_text()
        assert f"after a warm start and {k} iteration" in card
    assert done.stderr.count("Health of demo-drift") == 2  # after either iteration
    assert "their KL to the base, nats a token" in done.stderr


def test_one_seed_reaches_every_stage_of_the_demo() -> None:
    recipe = load_recipe("demo", ["seed=5"])
    assert recipe.loop.warm is not None
    seeds = {recipe.simulate.seed, recipe.tiny.seed, recipe.evaluate.seed, recipe.loop.rollout.seed}
    assert seeds | {recipe.loop.train.seed, recipe.loop.warm.seed} == {5}
