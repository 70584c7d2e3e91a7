"""Time and memory of `convert` beside a bare pyarrow copy of the same files: `python benches/convert.py`.

The bare copy reads the columns that `convert` needs and writes them as zstd Parquet, no check made. Every
measurement is a fresh process; memory is the peak above what the imports took. Exit code 1 when a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = (100_000, 200_000)
MAX_RATIO, MAX_MEMORY, MAX_GROWTH = 2.0, 1 << 30, 1.1
COLUMNS = (
    "conversation_hash",
    "model",
    "timestamp",
    "language",
    "country",
    "toxic",
    "redacted",
    "conversation.list.element.role",
    "conversation.list.element.content",
)


def peak_bytes() -> int:
    """Return the peak resident memory of this process since it was started."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def make(logs: Path, conversations: int) -> None:
    from drift_data.simulate.benchmark import write_wildchat

    write_wildchat(logs, conversations, seed=0)


def measure(task: str, logs: Path, work: Path) -> dict[str, float]:
    """Run one task in this process; return seconds and bytes above the imports."""
    import time

    import pyarrow.parquet as pq

    from drift_data.convert.options import CleanOptions
    from drift_data.convert.stage import convert
    from drift_data.workspace import Workspace

    files = sorted(logs.glob("*.parquet"))
    before, started = peak_bytes(), time.perf_counter()
    if task == "copy":
        writer = None
        for path in files:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    for batch in file.iter_batches(row_groups=[group], columns=list(COLUMNS)):
                        writer = writer or pq.ParquetWriter(
                            work / "copy.parquet", batch.schema, compression="zstd"
                        )
                        writer.write_batch(batch)
        assert writer is not None
        writer.close()
    else:
        options = CleanOptions(deduplicate="near" if task == "near" else "exact")
        convert(Workspace(work), "wildchat", [str(logs)], options)
    return {"seconds": time.perf_counter() - started, "bytes": peak_bytes() - before}


def child(*arguments: object) -> str:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def repeated(task: str, logs: Path, repeats: int) -> dict[str, float]:
    """Return the medians over some fresh processes."""
    runs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(dir=logs.parent) as work:
            runs.append(json.loads(child("--task", task, "--logs", logs, "--work", work).splitlines()[-1]))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="conversations")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--task", choices=["make", "copy", "convert", "near"], help=argparse.SUPPRESS)
    parser.add_argument("--logs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task == "make":
        make(options.logs, options.sizes[0])
        return 0
    if options.task:
        print(json.dumps(measure(options.task, options.logs, options.work)))
        return 0

    print(
        f"{'conversations':>13} {'raw MB':>7} {'copy s':>7} {'convert s':>9} {'ratio':>6} {'copy MB':>8} {'convert MB':>10}"
    )
    ratios, memory = [], []
    with tempfile.TemporaryDirectory(prefix="drift-bench-") as folder:
        for size in options.sizes:
            logs = Path(folder) / str(size)
            child("--task", "make", "--logs", logs, "--sizes", size)
            raw = sum(path.stat().st_size for path in logs.iterdir())
            copy, converted = (repeated(task, logs, options.repeats) for task in ("copy", "convert"))
            ratios.append(converted["seconds"] / copy["seconds"])
            memory.append(converted["bytes"])
            print(
                f"{size:>13,} {raw / 1e6:>7.0f} {copy['seconds']:>7.2f} {converted['seconds']:>9.2f} {ratios[-1]:>6.2f}"
                f" {copy['bytes'] / 2**20:>8.0f} {converted['bytes'] / 2**20:>10.0f}",
                flush=True,
            )
        near = repeated("near", Path(folder) / str(options.sizes[0]), 1)
    print(
        f"with near-duplicate removal, {options.sizes[0]:,} conversations: {near['seconds']:.1f} s, "
        f"{near['bytes'] / 2**20:.0f} MB"
    )
    growth = max(memory) / min(memory)
    fine = max(ratios) <= MAX_RATIO and max(memory) <= MAX_MEMORY and growth <= MAX_GROWTH
    print(
        f"ratio at most {MAX_RATIO:g}: {max(ratios):.2f}; memory above imports at most {MAX_MEMORY >> 20} MB: "
        f"{max(memory) / 2**20:.0f}; largest to smallest at most {MAX_GROWTH:g}: {growth:.2f} → "
        f"{'within limits' if fine else 'LIMIT BROKEN'}"
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
