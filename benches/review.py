"""The review page over a million labelled turns: `python benches/review.py`.

Two label tables of 250,000 conversations, four turns each. A fresh process starts a review of one against the other,
and shows and decides turns as the page does, without the network between. Memory is the peak above what the imports
took. Exit code 1 when a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from convert import peak_bytes

CONVERSATIONS, TURNS, DECISIONS = 250_000, 4, 100
MAX_START, MAX_BYTES, MAX_PAGE, MAX_DECISION = 15.0, 1_200_000_000, 0.5, 1.0


def make(work: Path) -> None:
    """Write conversations and two label tables."""
    from drift_data import schema
    from drift_data.workspace import Output, Workspace

    workspace, part = Workspace(work), 5_000
    languages = ["English", "Russian", "Chinese", "French", None]
    said = [
        {"role": ("user", "assistant")[at % 2], "content": f"message {at} " * 25}
        for at in range(2 * TURNS + 2)
    ]

    def conversations(outputs: Mapping[str, Output]) -> None:
        for start in range(0, CONVERSATIONS, part):
            rows = [
                {
                    "conversation_id": f"{at:032d}",
                    "source": "x",
                    "language": languages[at % 5],
                    "messages": said,
                }
                for at in range(start, start + part)
            ]
            outputs["conversations"].table(schema.CONVERSATIONS).write_rows(rows)

    workspace.run("convert", ["conversations"], conversations, options={})
    for seed, name in enumerate(("labels/one", "labels/two")):

        def labels(outputs: Mapping[str, Output], name: str = name, seed: int = seed) -> None:
            random = np.random.default_rng(seed)
            keys = [(f"{at:032d}", 2 * turn + 2) for at in range(CONVERSATIONS) for turn in range(TURNS)]
            for start in range(0, len(keys), part):
                drawn = random.choice(len(schema.LABELS), part, p=[0.05, 0.12, 0.83])
                rows = [
                    schema.make_label_row(
                        key,
                        turn,
                        schema.LABELS[code],
                        sat_score=6.0 * (code == 0),
                        dsat_score=6.0 * (code == 1),
                        items=[("Revision", "DSAT", 6)] if code == 1 else [],
                        judge=name,
                        rubric="x",
                    )
                    for (key, turn), code in zip(keys[start : start + part], drawn, strict=True)
                ]
                outputs[name].table(schema.LABEL_ROWS).write(pa.Table.from_pylist(rows, schema.LABEL_ROWS))

        options = {"judge": name, "thresholds": {"sat": 5, "dsat": 5}}
        workspace.run("label", [name], labels, options=options, inputs=["conversations"])


def review(work: Path) -> dict[str, float]:
    """Start, show and decide; return seconds and bytes above the imports."""
    from starlette.testclient import TestClient

    from drift_data.judge.rubric import load_rubric
    from drift_data.labels.reviewer import make_reviewer
    from drift_data.review.selection import Selection
    from drift_data.review.server import ReviewPages
    from drift_data.review.session import ReviewOptions, ReviewSession
    from drift_data.workspace import Workspace

    before, started = peak_bytes(), time.perf_counter()
    session = ReviewSession(
        Workspace(work), ReviewOptions("labels/one", make_reviewer("bench"), load_rubric(), "labels/two")
    )
    found = {"turns": len(session.queue), "start": time.perf_counter() - started}
    pages = ReviewPages(session, Selection())
    client = TestClient(pages.make_app("key", "cookie"), base_url="http://127.0.0.1")
    client.get("/?key=key")
    for order in ("random", "uncertain", "disagreements"):
        client.get(f"/?order={order}")  # sorts once
        found[order] = timed(lambda order=order: client.get(f"/?order={order}"), 20)

    def decide() -> None:
        at = session.queue.find_next(Selection(), session.codes)
        turn = session.load_turn(at, Selection())
        form = {"token": pages.token, "selection": "order=random", "at": f"{turn.key[1]}:{turn.key[0]}"}
        form |= {
            "text": turn.text_hash,
            "judge_label": turn.judged["label"],
            "prefilled_label": "",
            "shown": "[]",
        }
        assert client.post("/decide", data={**form, "label": "accept", "refusal": ""}).status_code == 200

    found["decision"] = timed(decide, DECISIONS)
    session.close()
    return {**found, "bytes": peak_bytes() - before}


def timed(action: Callable[[], object], times: int) -> float:
    """Return the median seconds of some calls."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path)
    work = parser.parse_args().work
    if work is not None:  # the fresh process
        print(json.dumps(review(work)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        command = [sys.executable, __file__, "--work", folder]
        found = json.loads(subprocess.run(command, check=True, text=True, capture_output=True).stdout)
    page = max(found[order] for order in ("random", "uncertain", "disagreements"))
    print("| labelled turns | start s | MB above the imports | page ms | decision and next page ms |")
    print("|---|---|---|---|---|")
    print(
        f"| {found['turns']:,} | {found['start']:.1f} | {found['bytes'] / 1e6:,.0f} | {1e3 * page:.0f} "
        f"| {1e3 * found['decision']:.0f} |"
    )
    limits = (found["start"], MAX_START), (found["bytes"], MAX_BYTES), (page, MAX_PAGE)
    return int(any(value > most for value, most in (*limits, (found["decision"], MAX_DECISION))))


if __name__ == "__main__":
    sys.exit(main())
