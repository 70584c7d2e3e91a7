"""Speed of the request layer against a chat server on loopback: `python benches/judge.py`.

Two measurements, each in a fresh process: with 200 ms latency and 32 connections, what share of the possible rate is
reached, from the first request to the last answer, slow start included; and with no latency, how many requests a
second one core sends, reads and stores. Requests have a 6 KB system message, which all share, a 3 KB user message
and a 300-byte answer. Where there are two cores the server has its own. Exit code 1 when a limit is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONNECTIONS, LATENCY = 32, 0.2
MIN_SHARE, MIN_RATE = 0.95, 250.0
SYSTEM_BYTES, USER_BYTES, ANSWER_BYTES = 6_000, 3_000, 300


@dataclass(frozen=True)
class Measurement:
    """One run against the server."""

    name: str
    latency: float
    requests: int

    @property
    def possible(self) -> float:
        """Return requests a second; infinite without latency."""
        return CONNECTIONS / self.latency if self.latency else float("inf")


MEASUREMENTS = (
    Measurement("200 ms latency", LATENCY, 4_800),
    Measurement("no latency", 0.0, 6_000),
)


def measure(measurement: Measurement, base_url: str, work: Path) -> dict[str, float]:
    """Ask in this process; return seconds, of the clock and of the processor."""
    import drift_data.llm.live.sender  # noqa: F401 loaded with the first request otherwise
    from drift_data.llm.cost import Spending
    from drift_data.llm.live.client import Client
    from drift_data.llm.options import ClientOptions, ServerOptions
    from drift_data.llm.request import Answer, Request, Sampling
    from drift_data.llm.store import STORE_FILE, Store

    sampling, system = Sampling(model="test"), "s" * SYSTEM_BYTES

    class Question:
        is_needed = False

        def __init__(self, number: int) -> None:
            self.request: Request | None = Request(system, f"{number:0{USER_BYTES}}", sampling)

        def receive(self, answer: Answer) -> None:
            assert len(answer.text) == ANSWER_BYTES, answer
            self.request = None

    def questions() -> Iterator[Question]:
        return (Question(number) for number in range(measurement.requests))

    options = ClientOptions(connections=CONNECTIONS)
    with (
        Store(work / STORE_FILE) as store,
        Client(store, Spending(), ServerOptions(base_url=base_url), options) as client,
    ):
        started, worked = time.perf_counter(), time.process_time()
        answered = sum(1 for _ in client.run(questions()))
        seconds, worked = time.perf_counter() - started, time.process_time() - worked
        assert answered == store.count() == measurement.requests
    return {"seconds": seconds, "worked": worked}


def in_fresh_process(number: int, base_url: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="drift-bench-") as work:
        command = [sys.executable, __file__, "--measure", str(number), "--url", base_url, "--work", work]
        return json.loads(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        if len(cores()) > 1:
            os.sched_setaffinity(0, cores()[:1])
        print(json.dumps(measure(MEASUREMENTS[options.measure], options.url, options.work)))
        return 0

    sys.path.insert(0, str(ROOT))
    from tests.helpers.llm_server import server_process

    print(f"{'':>14} {'requests':>8} {'s':>6} {'a second':>8} {'possible':>8} {'share':>6} {'core busy':>9}")
    rates, shares = {}, {}
    for number, measurement in enumerate(MEASUREMENTS):
        cpu = cores()[1] if len(cores()) > 1 else None
        with server_process(latency=measurement.latency, cpu=cpu, length=ANSWER_BYTES) as base_url:
            taken = in_fresh_process(number, base_url)
        rates[measurement.name] = rate = measurement.requests / taken["seconds"]
        shares[measurement.name] = share = rate / measurement.possible
        print(
            f"{measurement.name:>14} {measurement.requests:>8,} {taken['seconds']:>6.1f} {rate:>8.1f} "
            f"{measurement.possible:>8.0f} {share:>6.1%} {taken['worked'] / taken['seconds']:>9.0%}",
            flush=True,
        )
    share, rate = shares["200 ms latency"], rates["no latency"]
    fine = share >= MIN_SHARE and rate >= MIN_RATE
    print(
        f"at least {MIN_SHARE:.0%} of the possible rate: {share:.1%}; at least {MIN_RATE:.0f} requests/s on one core: "
        f"{rate:.0f} → {'within limits' if fine else 'LIMIT BROKEN'}"
    )
    return 0 if fine else 1


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


if __name__ == "__main__":
    sys.exit(main())
