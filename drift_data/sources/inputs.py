"""Finds the raw files that INPUT names (files, folders, globs, or a data set on the Hub), with their digests.

Files on the Hub are found by `datasets` and read as streams, so that only the needed parts are downloaded.
"""

from __future__ import annotations

import glob
import gzip
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Never, cast

from tqdm import tqdm

from drift_data.workspace import UserError, hash_file

PARQUET_SUFFIX = ".parquet"
JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".json", ".json.gz")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HUB_SCHEME = "hf://"
_UNPACKED_RATIO = 4  # typical size of unpacked text divided by its .gz size, for the progress bar
_METADATA_FILES = {"manifest.json", "dataset_infos.json", "dataset_info.json", "state.json"}


@dataclass(frozen=True)
class RawFile:
    """One raw file, on this machine or on the Hub."""

    name: str  # short name, unique among the inputs; `location` in dropped rows begins with it
    url: str  # a path, or hf://datasets/owner/name@revision/path
    digest: str  # SHA-256 of the bytes, or the Hub's revision
    size: int  # bytes

    @property
    def on_hub(self) -> bool:
        """Whether the file is on the Hub, so that reading needs the network."""
        return self.url.startswith(_HUB_SCHEME)

    @property
    def is_parquet(self) -> bool:
        """Whether the file's name is that of a Parquet file."""
        return self.name.lower().endswith(PARQUET_SUFFIX)

    def open(self) -> BinaryIO:
        """Open the file for reading bytes; a .gz file is unpacked while it is read."""
        if self.on_hub:
            from huggingface_hub import HfFileSystem

            file = cast(BinaryIO, HfFileSystem().open(self.url, "rb"))
        else:
            file = Path(self.url).open("rb")  # noqa: SIM115 the caller closes it
        return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if self.url.endswith(".gz") else file


@dataclass
class Tally:
    """Counts of the raw rows that were read, by table, and the progress bar of the bytes.

    Readers count a row where it is read, from the file's metadata or line by line. What becomes of the row later does
    not change the count, so a lost row is noticed.
    """

    rows: Counter[str] = field(default_factory=Counter)  # table → raw rows that were read for it
    notes: dict[str, object] = field(default_factory=dict)  # facts for the manifest's results
    bar: tqdm[Never] | None = None  # counts bytes of the raw files

    def read_bytes(self, file: RawFile, count: float) -> None:
        """Move the progress bar by a number of unpacked bytes of a file; its size counts packed bytes."""
        if self.bar is not None:
            self.bar.update(round(count / _UNPACKED_RATIO if file.url.endswith(".gz") else count))


def find_raw_files(inputs: Sequence[str]) -> list[RawFile]:
    """Return the files that INPUT names, in a stable order, each once.

    Args:
        inputs: files, folders (with their subfolders), globs, or one Hub id "owner/name" or "owner/name@revision"
            that is not also an existing path.

    Raises:
        UserError: an input does not exist or holds no data, or the Hub has no such data set.
    """
    if not inputs:
        raise UserError("INPUT= is empty. Give a file, a folder, a glob or a Hub id: INPUT='logs/*.parquet'.")
    on_hub = [name for name in inputs if _is_hub_id(name)]
    if on_hub:
        if len(inputs) > 1:
            raise UserError(
                f"INPUT names {on_hub[0]}, which is no file here and reads as a Hub id; that stands alone."
                " Check the path, or convert the Hub data set by itself."
            )
        identifier, _, revision = on_hub[0].partition("@")
        return find_hub_files(identifier, revision or None)
    paths = list(dict.fromkeys(path.resolve() for name in inputs for path in _find_paths(name)))
    top = Path(os.path.commonpath([path.parent for path in paths]))
    return [
        RawFile(path.relative_to(top).as_posix(), str(path), hash_file(path), path.stat().st_size)
        for path in paths
    ]


def _is_hub_id(name: str) -> bool:
    """Return whether an input has the form of a Hub id and is not a path on this machine."""
    looks_so = _HUB_ID.fullmatch(name) is not None and not name.lower().endswith(
        (PARQUET_SUFFIX, *JSON_SUFFIXES)
    )
    return looks_so and not os.path.lexists(name)


def _find_paths(name: str) -> list[Path]:
    """Return the files of one input: a file, a folder or a glob."""
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = _find_data_files(path)
        if not found:
            raise UserError(
                f"{path} holds no data: no {', '.join((PARQUET_SUFFIX, *JSON_SUFFIXES))} file below it."
            )
        return found
    found = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207 an absolute pattern
    found = [match for match in found if match.is_file()]
    if not found:
        raise UserError(
            f"INPUT {name!r}: no such file or folder, no match as a glob, and no Hub id (owner/name)."
        )
    return found


def _find_data_files(folder: Path) -> list[Path]:
    """Return a folder's Parquet files, or its JSON files if it has no Parquet; hidden files do not count."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    tables = [path for path in files if path.name.lower().endswith(PARQUET_SUFFIX)]
    texts = [p for p in files if p.name.lower().endswith(JSON_SUFFIXES) and p.name not in _METADATA_FILES]
    if tables and texts:
        print(
            f"{folder} holds Parquet, so its JSON files are left out: {', '.join(p.name for p in texts)[:500]}. "
            "Give their own paths as input to read them.",
            file=sys.stderr,
        )
    return tables or texts


def find_hub_files(identifier: str, revision: str | None = None) -> list[RawFile]:
    """Return the data files of all configurations and splits of a Hub data set, or of a local copy of one.

    Raises:
        UserError: there is no such data set, no access to it, or no network.
    """
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    urls: dict[str, None] = {}
    try:
        for config in datasets.get_dataset_config_names(identifier, revision=revision):
            builder = datasets.load_dataset_builder(identifier, config, revision=revision)
            for split in (builder.config.data_files or {}).values():
                urls.update(dict.fromkeys(map(str, split)))
    except (OSError, ValueError, HfHubHTTPError) as error:  # DatasetNotFoundError is a FileNotFoundError
        way_out = "Check the name; for a gated data set accept its terms on the Hub and log in with `hf auth login`."
        if isinstance(error, OfflineModeIsEnabled) or "OfflineModeIsEnabled" in str(error):
            way_out = (
                "The Hub libraries are switched off here (HF_HUB_OFFLINE=1, or a recipe with `offline: true`, as "
                "the default one): give another RECIPE=, or SET='offline=false'."
            )
        raise UserError(
            f"{identifier} is no path on this machine, and on the Hub it cannot be read: {error}. {way_out}"
        ) from error
    wanted = [url for url in urls if url.lower().endswith((PARQUET_SUFFIX, *JSON_SUFFIXES))]
    if not wanted:
        raise UserError(
            f"The Hub data set {identifier} has no Parquet or JSON file: {', '.join(urls) or 'none'}."
        )
    return [_describe_hub_file(url) for url in wanted]


def _describe_hub_file(url: str) -> RawFile:
    """Return the raw file behind an address that `datasets` gives."""
    if not url.startswith(_HUB_SCHEME):
        path = Path(url)
        return RawFile(path.name, url, hash_file(path), path.stat().st_size)
    from huggingface_hub import HfFileSystem

    info = HfFileSystem().info(url)
    repository, _, path_in_repo = url.removeprefix(f"{_HUB_SCHEME}datasets/").partition("@")
    revision, _, inside = path_in_repo.partition("/")
    return RawFile(inside or repository, url, f"{repository}@{revision}", int(info["size"] or 0))


def collect_digests(files: Sequence[RawFile]) -> dict[str, str]:
    """Return file name → digest, for the manifest."""
    return {file.name: file.digest for file in files}
