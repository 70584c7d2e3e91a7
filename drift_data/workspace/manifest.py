"""Defines the manifest, which says what made a finished folder, and computes the digests and figures in it."""

from __future__ import annotations

import hashlib
import json
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

MANIFEST = "manifest.json"
# The card tells people about a folder. It may be written again at any time, so it is not part of the folder's content.
CARD = "README.md"


class Manifest(BaseModel):
    """What made a finished folder.

    `digest` covers the folder's content. When a stage makes equal content again, everything made from it stays valid.
    """

    model_config = ConfigDict(extra="forbid")

    stage: str  # name of the stage
    tool: str  # version of the toolkit
    options: dict[str, Any]  # everything besides inputs and files that determines the content
    inputs: dict[str, str]  # folder in this workspace that was read → its digest at that time
    files: dict[str, str]  # raw input → sha256 of its bytes
    rows_in: int | None = None  # None: the rows were not checked against the rows out and dropped
    rows_out: int = 0  # rows of the table
    dropped: dict[str, int] = {}  # reason → number of rows that were left out of the table
    made_by: dict[str, Any] = {}  # the engine, judge or model that was used
    results: dict[str, Any] = {}  # figures worth keeping, such as scores or counts
    digest: str = ""  # sha256 of the content, from `hash_folder`
    seconds: float = 0.0  # how long the stage ran
    # Peak of this process or of its largest finished child, whichever is more. It includes what imports take.
    peak_memory_bytes: int = 0


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, read as a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(folder: Path) -> str:
    """Return one sha256 over the names and bytes of all files below a folder, except manifests and cards."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, CARD)):
        total.update(f"{path.relative_to(folder).as_posix()}\0{hash_file(path)}\n".encode())
    return total.hexdigest()


def read_tool_version() -> str:
    """Return the installed version of the toolkit, or "unknown" when it runs from a bare folder."""
    try:
        return version("drift-toolkit")
    except PackageNotFoundError:
        return "unknown"


def measure_peak_memory() -> int:
    """Return the peak resident memory, in bytes, of this process or its largest finished child, whichever is more."""
    unit = 1 if sys.platform == "darwin" else 1024
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(usage) * unit


def make_plain_json(value: Any) -> Any:
    """Return a value as it reads back from JSON, so that options compare equal to those in a manifest."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))
