"""What holds for every test."""

import gc
import signal

import pytest


def pytest_configure() -> None:
    """Have Ctrl-C interrupt: a shell that starts a command in the background has it ignore SIGINT, and all it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with slow tests first: of several workers none is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Let no garbage collection look through all that was imported: some code under test collects often."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Leave no garbage to the end of the process: some libraries call that a leak."""
    gc.unfreeze()
