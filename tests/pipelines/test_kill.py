"""A stage killed at any moment, run again, ends with the tables of an undisturbed run.

Each stage runs as a process group of its own and gets SIGKILL at five random moments; then it runs to its end.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

KILLS = 5
MEASURED = ("tokens_per_second", "peak_memory_bytes")  # of a training step: these differ from run to run
MICRO = Path(__file__).parent / "micro.yaml"
DATA_STAGES = (("convert",), ("label",), ("seed",))
LARGER = ("--set", "simulate.conversations=20000", "--set", "simulate.pretrain.clean=3000")
TRAINING_STAGES = (("warm",), ("iter", "--n", "1"), ("eval", "--n", "1"), ("report",))


# One thread: with several, on busy cores, replies of equal weights and seeds were seen to differ.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def command(work: Path, *stage: str) -> list[str]:
    return [sys.executable, "-m", "pipelines", *stage, "--work", str(work), "--recipe", str(MICRO)]


def inside_a_stage(work: Path) -> bool:
    """Say whether a killed process had begun to write: its temporary folder is still there."""
    return (work / ".tmp").exists()


def run(work: Path, *stage: str) -> float:
    started = time.monotonic()
    done = subprocess.run(command(work, *stage), env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return time.monotonic() - started


def kill_at(moment: float, work: Path, *stage: str) -> bool:
    """Start a stage, kill its process group after so many seconds; say whether it was still running."""
    process = subprocess.Popen(
        command(work, *stage),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ONE_THREAD,
        start_new_session=True,
    )
    try:
        process.wait(timeout=moment)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def contents(work: Path) -> dict[str, object]:
    """Return all that stages made, times and memory aside: manifests, rows, metrics, cards, whole reports."""
    found: dict[str, object] = {}
    for path in sorted(work.rglob("manifest.json")):
        manifest = json.loads(path.read_text())
        del manifest["seconds"], manifest["peak_memory_bytes"]
        last = manifest["results"].get("last_step", {})  # of a training
        manifest["results"]["last_step"] = {k: v for k, v in last.items() if k not in MEASURED}
        found[f"{path.parent.relative_to(work)} manifest"] = manifest
    for folder in sorted({path.parent for path in work.rglob("*.parquet")}):
        query = f"select count(*), bit_xor(hash(columns(*)::varchar)) from '{folder}/*.parquet'"
        found[str(folder.relative_to(work))] = duckdb.sql(query).fetchall()
    for path in sorted(work.rglob("metrics*.jsonl")):
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{key: value for key, value in step.items() if key not in MEASURED} for step in steps]
        found[str(path.relative_to(work))] = kept
    for path in sorted(work.rglob("README.md")):
        found[str(path.relative_to(work))] = path.read_text()
    for path in sorted(work.rglob("*.html")):
        found[str(path.relative_to(work))] = path.read_text().rstrip().endswith("</html>")
    return found


def stages_survive_kills(
    tmp_path: Path, stages: tuple[tuple[str, ...], ...], random_seed: int
) -> dict[str, object]:
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    rng = random.Random(random_seed)
    hits = 0
    for stage in stages:
        seconds = run(undisturbed, *stage)
        killed = writing = 0
        # Early ones first: a run that ends before its kill leaves nothing to the later ones.
        for moment in sorted(rng.uniform(0.1, 1.0) for _ in range(KILLS)):
            killed += kill_at(moment * seconds, disturbed, *stage)
            writing += inside_a_stage(disturbed)
        print(
            f"{' '.join(stage[:3])}: {killed} of {KILLS} runs killed, {writing} of them while a stage was writing"
        )
        hits += writing
        assert killed, f"{stage} ended before every kill"
        run(disturbed, *stage)
        leftovers = [path for path in disturbed.rglob("*") if ".tmp" in path.parts]
        assert not leftovers
        assert contents(disturbed) == contents(undisturbed), stage
    assert hits >= len(stages), f"only {hits} kills hit a stage while it was writing"
    return contents(undisturbed)


def test_data_stages_survive_kills(tmp_path: Path) -> None:
    stages_survive_kills(tmp_path, tuple((*stage, *LARGER) for stage in DATA_STAGES), random_seed=1)


@pytest.mark.slow
def test_training_stages_survive_kills(tmp_path: Path) -> None:
    for work in (tmp_path / "undisturbed", tmp_path / "disturbed"):
        for stage in DATA_STAGES:
            run(work, *stage)
    made = stages_survive_kills(tmp_path, TRAINING_STAGES, random_seed=2)
    folder = "runs/micro-drift"
    assert made[f"{folder}/report.html"] is True
    assert made[f"{folder}/iter0/metrics.jsonl"]
    assert made[f"{folder}/iter1/metrics.jsonl"]
    assert made[f"{folder}/iter1/health"]
    assert made[f"{folder}/iter1/model/README.md"]
