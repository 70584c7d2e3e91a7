"""What holds for every test."""

import gc


def pytest_collection_finish() -> None:
    """Let no garbage collection look through all that was imported: some code under test collects often."""
    gc.collect()
    gc.freeze()
