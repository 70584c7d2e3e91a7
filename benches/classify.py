"""Speed and memory of the embedded judge: `python benches/classify.py`.

WildChat-shaped conversations are converted, then labelled by the shipped classifier in a fresh process: how long the
model takes to load, how many turns a second it judges (conversations in memory, features and rows included), and how
many the whole stage reads, judges, decides and writes. Memory is the peak of the stage above what the imports took,
for one and for twice the conversations. Exit code 1 when a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from convert import make, peak_bytes

SIZES = (50_000, 100_000)
MIN_RATE, MAX_LOAD, MAX_GROWTH = 20_000.0, 1.0, 1.2
JUDGED = 20_000  # conversations that are judged in memory


def prepare(folder: Path, conversations: int) -> None:
    """Write conversations into a workspace."""
    from drift_data.convert.options import CleanOptions
    from drift_data.convert.stage import convert
    from drift_data.workspace import Workspace

    make(folder / "logs", conversations)
    convert(Workspace(folder), "wildchat", [str(folder / "logs")], CleanOptions(deduplicate="off"))


def measure(folder: Path) -> dict[str, float]:
    """Load, judge and label in this process; return seconds, turns and bytes."""
    from drift_data.judge.base import CONVERSATION_COLUMNS
    from drift_data.judge.local import LocalJudge
    from drift_data.judge.options import Thresholds
    from drift_data.judge.stage import label
    from drift_data.workspace import Workspace

    workspace = Workspace(folder)
    started = time.perf_counter()
    judge = LocalJudge()
    loaded = time.perf_counter()
    before = peak_bytes()
    label(workspace, judge, Thresholds())
    labelled = time.perf_counter()
    used = peak_bytes() - before
    held, rows = [], 0
    for batch in workspace.batches("conversations", CONVERSATION_COLUMNS, 1_000):
        held.append(batch)
        rows += batch.num_rows
        if rows >= JUDGED:
            break
    ready = time.perf_counter()
    judged = sum(answer.rows.num_rows for answer in judge.judge(held))
    done = time.perf_counter()
    turns = workspace.require("labels/local").rows_out
    return {
        "load": loaded - started,
        "turns": turns,
        "stage": turns / (labelled - loaded),
        "rate": judged / (done - ready),
        "bytes": used,
    }


def child(*arguments: object) -> str:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="conversations")
    parser.add_argument("--task", choices=["prepare", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task == "prepare":
        prepare(options.folder, options.sizes[0])
        return 0
    if options.task == "measure":
        print(json.dumps(measure(options.folder)))
        return 0
    print(
        f"{'conversations':>13} {'turns':>9} {'load s':>7} {'judge turns/s':>14} {'stage turns/s':>14} {'MB':>6}"
    )
    found = []
    with tempfile.TemporaryDirectory(prefix="drift-bench-") as folder:
        for size in options.sizes:
            work = Path(folder) / str(size)
            work.mkdir()
            child("--task", "prepare", "--folder", work, "--sizes", size)
            run = json.loads(child("--task", "measure", "--folder", work).splitlines()[-1])
            found.append(run)
            print(
                f"{size:>13,} {run['turns']:>9,} {run['load']:>7.2f} {run['rate']:>14,.0f} {run['stage']:>14,.0f} "
                f"{run['bytes'] / 2**20:>6.0f}",
                flush=True,
            )
    rate, load = max(run["rate"] for run in found), max(run["load"] for run in found)
    growth = found[-1]["bytes"] / found[0]["bytes"]
    fine = rate >= MIN_RATE and load <= MAX_LOAD and growth <= MAX_GROWTH
    print(
        f"judge at least {MIN_RATE:,.0f} turns/s: {rate:,.0f}; load at most {MAX_LOAD:g} s: {load:.2f}; memory of twice "
        f"the conversations at most {MAX_GROWTH:g} times: {growth:.2f} → {'within limits' if fine else 'LIMIT BROKEN'}"
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
