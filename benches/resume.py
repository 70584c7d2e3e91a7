"""A labelling run whose answers are all in the store, made again: `python benches/resume.py`.

Logs of two sizes in WildChat-1M's shape, with an answer in the store for each request. A fresh process makes all
requests, finds and checks all answers, and writes the label table, over no connection; then another finds the table
there and does nothing. Memory is the peak above what the imports took. Exit code 1 when a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from convert import peak_bytes

SIZES = (33_500, 67_000)  # conversations; the larger has 100,000 feedback turns
MAX_SECONDS, MAX_GROWTH = 10.0, 1.2
URL = "http://127.0.0.1:9/v1"  # nobody listens: whatever is not in the store is an error


def opened(work: Path) -> Any:
    """Return workspace, store, judge and client of a work folder."""
    from drift_data.judge.rubric import load_rubric
    from drift_data.judge.spur.judge import LLMJudge
    from drift_data.llm.cost import Spending
    from drift_data.llm.live.client import Client
    from drift_data.llm.options import ClientOptions, ServerOptions
    from drift_data.llm.request import Sampling
    from drift_data.llm.store import STORE_FILE, Store
    from drift_data.workspace import Workspace

    workspace, store = Workspace(work), Store(work / STORE_FILE)
    client = Client(store, Spending(), ServerOptions(base_url=URL), ClientOptions())
    return workspace, store, LLMJudge(client, Sampling(model="test"), load_rubric())


def make(work: Path, conversations: int) -> dict[str, float]:
    """Write and convert logs, and put an answer to each request into the store."""
    from drift_data.convert.options import CleanOptions
    from drift_data.convert.stage import convert
    from drift_data.judge.base import CONVERSATION_COLUMNS
    from drift_data.llm.request import Answer
    from drift_data.simulate.benchmark import write_wildchat

    workspace, store, judge = opened(work)
    with tempfile.TemporaryDirectory(dir=work.parent) as logs:
        write_wildchat(Path(logs), conversations, seed=0)
        convert(workspace, "wildchat", [logs], CleanOptions())
    turns = 0
    for exchange in judge.plan_exchanges(workspace.batches("conversations", CONVERSATION_COLUMNS)):
        schema = exchange.request.schema.schema["properties"]["turns"]["items"]["properties"]
        asked = schema["turn"]["enum"]
        turn = {"act": "other", "items": [], "evidence": "", "refusal": "no"}
        text = json.dumps({"turns": [{"turn": number, **turn} for number in asked]})
        store.put(exchange.request, Answer(text), backend="openai")
        turns += len(asked)
    return {"turns": turns, "requests": store.count()}


def label_again(work: Path) -> dict[str, float]:
    """Label from the store; return seconds and bytes above the imports."""
    from drift_data.judge.options import Thresholds
    from drift_data.judge.stage import label

    workspace, store, judge = opened(work)
    before, started = peak_bytes(), time.perf_counter()
    label(workspace, judge, Thresholds())
    store.close()
    return {"seconds": time.perf_counter() - started, "bytes": peak_bytes() - before}


def child(task: str, work: Path, *arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--task", task, "--work", str(work), *map(str, arguments)]
    done = subprocess.run(command, check=True, text=True, capture_output=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="conversations")
    parser.add_argument("--task", choices=["make", "label"], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        made = make(options.work, options.sizes[0]) if options.task == "make" else label_again(options.work)
        print(json.dumps(made))
        return 0

    print(f"{'turns':>9} {'requests':>9} {'from the store s':>17} {'MB':>5} {'finished s':>11}")
    seconds, finished, memory = 0.0, 0.0, []
    with tempfile.TemporaryDirectory(prefix="drift-bench-") as folder:
        for size in options.sizes:
            work = Path(folder) / str(size)
            made = child("make", work, "--sizes", size)
            taken, again = child("label", work), child("label", work)
            seconds, finished = taken["seconds"], again["seconds"]
            memory.append(taken["bytes"])
            print(
                f"{made['turns']:>9,} {made['requests']:>9,} {seconds:>17.1f} {taken['bytes'] / 2**20:>5.0f} "
                f"{again['seconds']:>11.2f}",
                flush=True,
            )
    growth = max(memory) / min(memory)
    fine = finished <= MAX_SECONDS and growth <= MAX_GROWTH
    print(
        f"finished run at most {MAX_SECONDS:g} s: {finished:.2f}; memory, larger to smaller at most {MAX_GROWTH:g}: "
        f"{growth:.2f} → {'within limits' if fine else 'LIMIT BROKEN'}"
    )
    reached = "reached" if seconds <= MAX_SECONDS else "not reached here"
    print(f"goal for a table made again from the store, {MAX_SECONDS:g} s: {seconds:.1f}, {reached}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
