"""A stage killed at any moment, run again, ends with the tables of an undisturbed run.

An undisturbed run says which steps the stage takes on the disk; a second one is killed at some of them, from the first
to the last, run again after each, and then runs to its end.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pytest

from tests.helpers.killable import drift, read_steps, spread

pytestmark = pytest.mark.slow

KILLS = {"iter": 8}  # of a stage, else 5: this one makes four tables and models, one after the other
MEASURED = ("tokens_per_second", "peak_memory_bytes")  # of a training step: these differ from run to run
MICRO = Path(__file__).parent / "micro.yaml"
RECIPE = ("--recipe", str(MICRO))
DATA_STAGES = (("convert",), ("label",), ("seed",))
TRAINING_STAGES = (("warm",), ("iter", "--n", "1"), ("eval", "--n", "1"), ("report",))


def inside_a_stage(work: Path) -> bool:
    """Say whether a killed process had begun to write: its temporary folder is still there."""
    return (work / ".tmp").exists()


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


def stages_survive_kills(folder: Path, stages: Sequence[tuple[str, ...]]) -> dict[str, object]:
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    hits = 0
    for stage in stages:
        steps = folder / f"steps of {stage[0]}"
        drift(undisturbed, *stage, *RECIPE, steps=steps)
        moments, writing = spread(read_steps(steps), KILLS.get(stage[0], 5)), 0
        for moment in moments:
            drift(disturbed, *stage, *RECIPE, kill=moment)  # fails when the process is not killed there
            print(f"{stage[0]}: killed {moment}")
            writing += inside_a_stage(disturbed)
        print(f"{' '.join(stage)}: {len(moments)} runs killed, {writing} of them while a stage was writing")
        hits += writing
        drift(disturbed, *stage, *RECIPE)
        leftovers = [path for path in disturbed.rglob("*") if ".tmp" in path.parts]
        assert not leftovers
        assert contents(disturbed) == contents(undisturbed), stage
    assert hits >= 2 * len(stages), f"only {hits} kills hit a stage while it was writing"
    return contents(undisturbed)


def test_data_stages_survive_kills(tmp_path: Path) -> None:
    stages_survive_kills(tmp_path, DATA_STAGES)


def test_training_stages_survive_kills(tmp_path: Path) -> None:
    for stage in DATA_STAGES:
        drift(tmp_path / "undisturbed", *stage, *RECIPE)
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "disturbed")
    made = stages_survive_kills(tmp_path, TRAINING_STAGES)
    folder = "runs/micro-drift"
    assert made[f"{folder}/report.html"] is True
    assert made[f"{folder}/iter0/metrics.jsonl"]
    assert made[f"{folder}/iter1/metrics.jsonl"]
    assert made[f"{folder}/iter1/health"]
    assert made[f"{folder}/iter1/model/README.md"]
