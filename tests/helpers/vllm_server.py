"""vLLM's own OpenAI-compatible server, as a process."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from drift_data.machine import end_process

_QUIET = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
_PATIENCE = 600  # seconds; it starts in 20 on a quiet machine


def free_url() -> str:
    """Return the base URL of a server that nobody runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


@contextlib.contextmanager
def serving(arguments: Sequence[str], base_url: str, log: Path) -> Iterator[None]:
    """Run `python <arguments>`; the block is entered when the server is up, and leaves none of its processes behind."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=os.environ | _QUIET, stdout=file, stderr=file
        )
        try:
            _wait_until_up(base_url.replace("/v1", "/health"), process, log)
            yield
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            end_process(process.pid)
            process.wait()


def _wait_until_up(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(2 * _PATIENCE):
        assert process.poll() is None, log.read_text()[-2_000:]
        try:
            with urllib.request.urlopen(url):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-2_000:])
