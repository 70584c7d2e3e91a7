"""Manifests and digests: what made a finished folder. Knows nothing about what is in it."""

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
CARD = (
    "README.md"  # says of a folder what a person should know, and may be written anew: no part of its content
)


class Manifest(BaseModel):
    """What made a finished folder. `digest` covers the content, so an equal rebuild changes nothing downstream."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    tool: str
    options: dict[str, Any]
    inputs: dict[str, str]  # folder in this workspace → its digest when it was read
    files: dict[str, str]  # raw input → sha256 of its bytes
    rows_in: int | None = None
    rows_out: int = 0
    dropped: dict[str, int] = {}
    made_by: dict[str, Any] = {}  # engine, judge or model used
    results: dict[str, Any] = {}  # figures worth keeping: scores, counts of a funnel
    digest: str = ""
    seconds: float = 0.0
    peak_memory_bytes: int = 0  # of this process and the largest of its children, imports included


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, read as a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(folder: Path) -> str:
    """Return one sha256 over the names and bytes of all files below a folder, manifest and card left out."""
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (MANIFEST, CARD)):
        total.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def tool_version() -> str:
    """Return the installed version of the toolkit, or "unknown" when it runs from a bare folder."""
    try:
        return version("drift-toolkit")
    except PackageNotFoundError:
        return "unknown"


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process or its largest finished child, whichever is more."""
    unit = 1 if sys.platform == "darwin" else 1024
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(usage) * unit


def plain_json(value: Any) -> Any:
    """Return a value as it reads back from JSON, so that options compare equal after a round trip."""
    return json.loads(json.dumps(value, sort_keys=True, default=str))
