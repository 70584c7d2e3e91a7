"""Writes a file or a folder whole or not at all: readers find the old one or the new one, never a part.

The content is written under a temporary name, flushed to the disk, and then renamed into place. An error removes the
temporary file. A killed process leaves the temporary file behind; the next write to the same place replaces it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def name_part_file(target: Path, folder: Path | None = None) -> Path:
    """Return the temporary name under which `replace_file` writes a file.

    Args:
        target: the file to be written.
        folder: where the temporary file goes; None: beside the target. It must be on the target's file system.
    """
    return (folder or target.parent) / f".{target.name}.part"


@contextmanager
def replace_file(target: Path, folder: Path | None = None) -> Iterator[Path]:
    """Write a file whole or not at all.

    Yields the path of a temporary file, for the caller to write text or bytes to and to close. When the block ends
    without an error, that file is flushed to the disk and takes the target's place. The old file is not written into, so
    a hard link to it keeps the old content. After an error the target is as it was, and the temporary file is gone.

    Args:
        target: the file to be written; its folder must be there.
        folder: where the temporary file goes, as in `name_part_file`. Pass one when a file that a kill leaves behind
            would count as content of the target's own folder.
    """
    part = name_part_file(target, folder)
    try:
        yield part
        sync_to_disk(part)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_to_disk(target.parent)


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Write a folder whole or not at all; an old folder of this name is replaced together with its content.

    Yields an empty folder beside the target, for the caller to fill. When the block ends without an error, its files
    are flushed to the disk and it takes the target's place. After an error the target is as it was.
    """
    new, old = (target.with_name(f".{target.name}.{state}") for state in ("new", "old"))
    for left_behind in (new, old):
        shutil.rmtree(left_behind, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
        for path in new.rglob("*"):
            sync_to_disk(path)
        if target.exists():
            target.rename(old)
        new.rename(target)
        sync_to_disk(target.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems can flush files, but not folders.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)
