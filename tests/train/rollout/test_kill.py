"""A rollout stage of many shards, killed again and again, ends with the table of an undisturbed run, byte for byte."""

import re
import signal
from pathlib import Path

import pytest

from drift_data.schema import DSAT_ROWS
from drift_data.workspace import Manifest, Workspace
from drift_train import loop
from drift_train.methods.options import LoopOptions
from drift_train.options import RolloutOptions
from drift_train.rollout.stage import sample_rollouts
from tests.helpers.killable import Step, read_steps, start
from tests.helpers.training_rows import dsat_row, write_table

SHARD, EXAMPLES, SAMPLES = 25, 20, 10  # 8 shards
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


def roll(work: Path) -> None:
    sample_rollouts(Workspace(work), "r", 1, OPTIONS)


def kept(work: Path) -> dict[str, int]:
    """Return the shards that are in place, in order, and when each was written."""
    return {
        path.name: path.stat().st_mtime_ns
        for path in sorted((work / ".unfinished").rglob("replies-*.parquet"))
    }


def sampled(steps: Path) -> list[str]:
    """Return the shards that a run put in place, in order."""
    return re.findall(r"^os\.rename\t.*/(replies-[^/]+\.parquet)$", steps.read_text(), re.MULTILINE)


def prepare(work: Path, policy: Path) -> Path:
    workspace = Workspace(work)
    write_table(workspace, "dsat", DSAT_ROWS, [dsat_row(i) for i in range(EXAMPLES)])
    loop.warm(workspace, "r", str(policy), OPTIONS)
    return work


def made(work: Path) -> Manifest:
    return Workspace(work).require(ROLLOUTS).model_copy(update={"seconds": 0, "peak_memory_bytes": 0})


@pytest.mark.slow
def test_rollouts_killed_at_many_moments_end_as_an_undisturbed_run(policy: Path, tmp_path: Path) -> None:
    undisturbed = prepare(tmp_path / "undisturbed", policy)
    disturbed = prepare(tmp_path / "disturbed", policy)
    assert start(undisturbed, roll, (undisturbed,), steps=tmp_path / "all") == 0
    shards = sampled(tmp_path / "all")
    assert [int(re.findall(r"\d+", name)[0]) for name in shards] == list(range(EXAMPLES * SAMPLES // SHARD))

    steps = {(step.action, step.path.rpartition("/")[2]): step for step in read_steps(tmp_path / "all")}
    renamed = [steps["os.rename", name] for name in shards]
    moments = {  # moment → how many shards are kept then
        renamed[0]: 0,  # the first one is written and has not its name yet
        Step("os.rename", renamed[2].path, done=True): 3,
        Step("os.rename", renamed[3].path, done=True): 4,
        renamed[6]: 6,
        next(step for step in steps.values() if step.action == "close"): 8,  # the table has no footer yet
    }
    for number, (moment, expected) in enumerate(moments.items()):
        before, trace = kept(disturbed), tmp_path / f"life {number}"
        assert start(disturbed, roll, (disturbed,), kill=moment, steps=trace) == -signal.SIGKILL
        after = kept(disturbed)
        assert list(after) == shards[:expected]
        assert before.items() <= after.items() and not before.keys() & set(
            sampled(trace)
        )  # none was sampled again
    last = tmp_path / "last life"
    assert start(disturbed, roll, (disturbed,), steps=last) == 0
    assert not sampled(last)
    files = [
        {path.name: path.read_bytes() for path in (work / ROLLOUTS).glob("*.parquet")}
        for work in (undisturbed, disturbed)
    ]
    assert files[0] == files[1]
    assert made(undisturbed) == made(disturbed)
    assert made(disturbed).rows_out == EXAMPLES * SAMPLES
    assert not (disturbed / ".unfinished").exists()
