"""Helps both halves with the machine they run on: ends processes, prepares vLLM for a CPU, and hides keys in messages.

The module imports nothing of the project, so that `drift_train` may use it, too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import psutil

MAX_SERVER_MESSAGE_CHARACTERS: Final = 300  # most characters of a server's message that our error shows
_PLACEHOLDER_KEY_LENGTH: Final = 4  # characters; keys up to this length, such as "none", protect nothing
_SECONDS_BETWEEN_LOOKS: Final = 0.5


def hide_key(text: str, key: str) -> str:
    """Return a server's words without the API key, which some servers repeat in their error messages."""
    return text.replace(key, "…") if len(key) > _PLACEHOLDER_KEY_LENGTH else text


def prepare_vllm_for_cpu(max_num_batched_tokens: int) -> dict[str, Any]:
    """Prepare the environment for vLLM on a CPU and return the arguments of `vllm.LLM` that a CPU needs.

    Call it before `vllm.LLM` is made. A KV cache size that the user has set (`VLLM_CPU_KVCACHE_SPACE`, GiB) stays.

    Args:
        max_num_batched_tokens: the most tokens that the engine computes in one step. Without chunked prefill a
            whole prompt must fit.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one process to start and to end
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return {
        "dtype": "float32",
        "enforce_eager": True,
        # With chunked prefill, a seed for each request fails on the CPU: "CPU Generator does not use offset".
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max_num_batched_tokens,
    }


def end_process(pid: int) -> None:
    """Kill a process and all processes that it started. On a GPU, vLLM computes in processes of its own."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def leave_with_parent(parent_lives: Callable[[], bool], leave: Callable[[], object]) -> threading.Thread:
    """Start a thread that ends this process once its parent is gone: a killed run must not keep a GPU.

    The parent must tell this process who the parent is. When imports have taken seconds and the parent has died
    meanwhile, the operating system names another process as the parent.

    Args:
        parent_lives: whether the process that started this one is still there; asked twice a second.
        leave: ends this process and everything that it has started.
    """

    def watch() -> None:
        while parent_lives():
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        leave()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread
