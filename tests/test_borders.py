"""Each half imports only what its users need: checked in fresh processes, not by good will."""

import json
import pkgutil
import subprocess
import sys

import pytest

import drift_data
import drift_train

TRAINING_STACK = {"torch", "transformers", "trl", "vllm", "drift_train", "pipelines"}
QUERY_STACK = {"polars", "duckdb", "openai", "pipelines"}


def loaded_after_importing_all_of(package: str, path: list[str]) -> set[str]:
    modules = [name for _, name, _ in pkgutil.walk_packages(path, prefix=f"{package}.")]
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules} | "
        "{name for name in sys.modules if name.startswith('drift_')})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_the_data_half_loads_no_training_stack() -> None:
    assert not loaded_after_importing_all_of("drift_data", list(drift_data.__path__)) & TRAINING_STACK


@pytest.mark.slow
def test_the_training_half_loads_no_query_engine_and_of_the_data_half_only_what_both_share() -> None:
    loaded = loaded_after_importing_all_of("drift_train", list(drift_train.__path__))
    assert not loaded & QUERY_STACK
    shared = ("drift_data.schema", "drift_data.workspace", "drift_data.machine")
    assert not {name for name in loaded if name.startswith("drift_data.") and not name.startswith(shared)}
