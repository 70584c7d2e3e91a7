"""A rollout stage of many shards, killed at random moments, ends with the table of an undisturbed run, byte for byte."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import dsat_row, write_table

from drift_data.schema import DSAT_ROWS
from drift_data.workspace import Manifest, Workspace
from drift_train import loop
from drift_train.methods.options import LoopOptions
from drift_train.options import RolloutOptions

KILLS = 5
SHARD, EXAMPLES, SAMPLES = 100, 40, 40
ROLLOUTS = "runs/r/iter1/rollouts"
OPTIONS = LoopOptions(
    rollout=RolloutOptions(
        engine="transformers",
        max_prompt_tokens=100,
        max_new_tokens=24,
        samples=SAMPLES,
        shard=SHARD,
        instruction="try again",
    ),
    warm=None,
)
CHILD = """
import sys
from drift_data.workspace import Workspace
from drift_train.methods.options import LoopOptions
from drift_train.rollout import sampler
from drift_train.rollout.stage import sample_rollouts
work, sampled, options = sys.argv[1:]
write = sampler.write_shard
def noted(path, shard):
    with open(sampled, "a") as file:
        file.write(path.name + "\\n")
    write(path, shard)
sampler.write_shard = noted
sample_rollouts(Workspace(work), "r", 1, LoopOptions.model_validate_json(options))
"""


def start(work: Path, sampled: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(work), str(sampled), OPTIONS.model_dump_json()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kept(work: Path) -> list[str]:
    return sorted(path.name for path in (work / ".unfinished").rglob("*.parquet"))


def prepare(work: Path, policy: Path) -> Path:
    workspace = Workspace(work)
    write_table(workspace, "dsat", DSAT_ROWS, [dsat_row(i) for i in range(EXAMPLES)])
    loop.warm(workspace, "r", str(policy), OPTIONS)
    return work


def made(work: Path) -> Manifest:
    return Workspace(work).require(ROLLOUTS).model_copy(update={"seconds": 0, "peak_memory_bytes": 0})


@pytest.mark.slow
def test_rollouts_killed_at_random_moments_end_as_an_undisturbed_run(policy: Path, tmp_path: Path) -> None:
    undisturbed = prepare(tmp_path / "undisturbed", policy)
    disturbed = prepare(tmp_path / "disturbed", policy)
    started = time.monotonic()
    child = start(undisturbed, tmp_path / "all")
    while not (tmp_path / "all").exists():
        assert child.poll() is None
        time.sleep(0.01)
    sampling = time.monotonic()
    assert child.wait() == 0
    ready, seconds = sampling - started, time.monotonic() - sampling

    rng, log, kills, hits = random.Random(5), tmp_path / "sampled", 0, 0
    log.touch()
    for _ in range(KILLS):
        before, lines = kept(disturbed), len(log.read_text().splitlines())
        child = start(disturbed, log)
        try:
            child.wait(ready + rng.uniform(-0.05, 0.3) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        after, new = kept(disturbed), log.read_text().splitlines()[lines:]
        assert set(before) <= set(after) or Workspace(disturbed).manifest(ROLLOUTS)  # the table was finished
        assert not set(before) & set(new)  # none that was there was sampled again
        kills += child.returncode == -signal.SIGKILL
        hits += child.returncode == -signal.SIGKILL and len(after) > len(before)
    print(f"{kills} kills, {hits} of them after new shards were kept")
    assert hits, "no kill came while there were shards to keep and to sample"
    lines, before = len(log.read_text().splitlines()), kept(disturbed)
    assert start(disturbed, log).wait() == 0
    assert set(log.read_text().splitlines()[lines:]).isdisjoint(before)
    files = [
        {path.name: path.read_bytes() for path in (work / ROLLOUTS).glob("*.parquet")}
        for work in (undisturbed, disturbed)
    ]
    assert files[0] == files[1]
    assert made(undisturbed) == made(disturbed)
    assert made(disturbed).rows_out == EXAMPLES * SAMPLES
    assert not (disturbed / ".unfinished").exists()
    everything = sorted((tmp_path / "all").read_text().splitlines())
    assert [int(re.findall(r"\d+", name)[0]) for name in everything] == list(
        range(EXAMPLES * SAMPLES // SHARD)
    )
