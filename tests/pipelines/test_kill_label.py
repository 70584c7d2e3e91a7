"""Killed at random moments, labelling by a model goes on: same labels, and nothing that was answered is asked again.

`DRIFT_KILLS` and `DRIFT_CHATS` set how often and how long; the test's own numbers are small.
"""

import json
import os
import random
import signal
import sys
import threading
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from drift_data.workspace import Workspace
from tests.helpers.killable import begin_drift, drift
from tests.helpers.label_runs import write_chats
from tests.helpers.llm_server import Action, Body, Hang, LLMServer
from tests.helpers.scoring_model import SIGNS, varied_answer

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("DRIFT_KILLS", "5"))
CHATS = int(os.environ.get("DRIFT_CHATS", "150"))
CONNECTIONS = 4  # so many requests can be in flight at a kill


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


def label(work: Path, url: str, connections: int) -> BaseProcess:
    options = ("--judge", "openai", "--model", "test", "--base-url", url)
    return begin_drift(work, "label", *options, "--set", f"label.client.connections={connections}")


def finish(process: BaseProcess) -> None:
    process.join()
    assert process.exitcode == 0


class Gate:
    """The model behind a server that answers so many requests and lets the others wait for ever."""

    def __init__(self) -> None:
        self.left, self.waiting = sys.maxsize, threading.Event()
        self.asked: Counter[str] = Counter()

    def let_through(self, number: int) -> None:
        self.left = number
        self.waiting.clear()

    def __call__(self, body: Body, count: int) -> Action | str:
        self.asked[json.dumps(body, sort_keys=True)] += 1
        self.left -= 1
        if self.left >= 0:
            return varied_answer(body)
        self.waiting.set()
        return Hang()


def test_kills_at_random_moments_change_no_label_and_repeat_only_what_was_in_flight(tmp_path: Path) -> None:
    source = write_chats(tmp_path / "chats.jsonl", chats(CHATS))
    works = {name: tmp_path / name for name in ("undisturbed", "killed")}
    for work in works.values():
        drift(work, "convert", "--source", "chat", "--input", str(source))
    calm = Gate()
    with LLMServer(calm) as server:
        finish(label(works["undisturbed"], server.base_url, 32))
    needed = calm.asked
    assert (
        set(needed.values()) == {1} and len(needed) > CHATS
    )  # some answers were asked for twice, differently

    choose, gate = random.Random(KILLS), Gate()
    share = len(needed) / KILLS * 0.9  # requests a life at most, so that some are left to ask at every kill
    with LLMServer(gate, keep=False) as server:
        for _ in range(KILLS):
            gate.let_through(choose.randint(0, max(1, round(share))))
            process = label(works["killed"], server.base_url, CONNECTIONS)
            assert gate.waiting.wait(120)  # it may still be reading and storing answers that came before
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
        gate.let_through(sys.maxsize)
        finish(label(works["killed"], server.base_url, 32))

    excess = sum(gate.asked.values()) - len(needed)
    print(f"{KILLS} kills while it asked; {len(needed)} requests needed, {excess} repeated")
    assert gate.asked.keys() == needed.keys()
    assert 1 <= excess <= KILLS * CONNECTIONS
    tables = [Workspace(work).read("labels/openai") for work in works.values()]
    assert tables[0].equals(tables[1])
    manifests = [Workspace(work).require("labels/openai") for work in works.values()]
    assert manifests[0].digest == manifests[1].digest and manifests[0].rows_out > CHATS
