"""Killed at random moments, labelling by a model goes on: same labels, and nothing that was answered is asked again.

`DRIFT_KILLS` and `DRIFT_CHATS` set how often and how long; the test's own numbers are small.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from scoring_model import SIGNS
from test_label_llm import write_chats

from drift_data.workspace import Workspace

KILLS = int(os.environ.get("DRIFT_KILLS", "5"))
CHATS = int(os.environ.get("DRIFT_CHATS", "150"))
CONNECTIONS = 4  # so many requests can be in flight at a kill
TESTS = Path(__file__).parents[1]


def chats(number: int) -> dict[str, list[str]]:
    words = [*SIGNS, "next", "more"]
    choose = random.Random(0)
    found = {}
    for name in range(number):
        texts = [f"Question {name}"]
        for turn in range(choose.randint(1, 4)):
            texts += [f"Answer {turn} to {name}", f"{choose.choice(words)} {name} {turn}"]
        found[f"c{name}"] = texts
    return found


def drift(work: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipelines", *map(str, arguments), "--work", str(work)]


def label(work: Path, url: str, connections: int) -> subprocess.Popen[bytes]:
    options = ("--judge", "openai", "--model", "test", "--base-url", url)
    limit = ("--set", f"label.client.connections={connections}")
    return subprocess.Popen(
        drift(work, "label", *options, *limit), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def serve(log: Path, latency: float) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "scoring_model.py", "--log", str(log), "--latency", str(latency)]
    server = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_kills_at_random_moments_change_no_label_and_repeat_only_what_was_in_flight(tmp_path: Path) -> None:
    source = write_chats(tmp_path / "chats.jsonl", chats(CHATS))
    works = {name: tmp_path / name for name in ("undisturbed", "killed")}
    for work in works.values():
        subprocess.run(
            drift(work, "convert", "--source", "chat", "--input", source), check=True, capture_output=True
        )
    logs = {name: tmp_path / f"{name}.log" for name in works}
    server, url = serve(logs["undisturbed"], 0.0)
    try:
        assert label(works["undisturbed"], url, 32).wait() == 0
    finally:
        server.kill()
    needed = Counter(lines(logs["undisturbed"]))
    assert (
        set(needed.values()) == {1} and len(needed) > CHATS
    )  # some answers were asked for twice, differently

    choose, kills, working = random.Random(KILLS), 0, 0
    share = (
        len(needed) / KILLS * 0.5
    )  # requests a life, so that the run outlives the kills on a busy machine, too
    server, url = serve(logs["killed"], 0.1)
    try:
        for _ in range(KILLS):
            process, before = label(works["killed"], url, CONNECTIONS), len(lines(logs["killed"]))
            wanted = choose.randint(0, max(1, round(2 * share)))
            while process.poll() is None and len(lines(logs["killed"])) - before < wanted:
                time.sleep(0.005)
            time.sleep(choose.random() * 0.15)
            if process.poll() is not None:  # it was quicker than the kill
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            working += len(lines(logs["killed"])) > before
        assert label(works["killed"], url, 32).wait() == 0
    finally:
        server.kill()

    asked = Counter(lines(logs["killed"]))
    excess = sum(asked.values()) - len(needed)
    print(f"{kills} kills, {working} while it asked; {len(needed)} requests needed, {excess} repeated")
    assert asked.keys() == needed.keys()
    assert excess <= kills * CONNECTIONS
    assert working >= KILLS / 2
    tables = [Workspace(work).read("labels/openai") for work in works.values()]
    assert tables[0].equals(tables[1])
    manifests = [Workspace(work).require("labels/openai") for work in works.values()]
    assert manifests[0].digest == manifests[1].digest and manifests[0].rows_out > CHATS
