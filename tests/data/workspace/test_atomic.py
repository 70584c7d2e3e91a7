"""A file or folder is written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from drift_data.workspace import name_part_file, replace_file, replace_folder
from drift_data.workspace.atomic import sync_to_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", [b"\x00\xff", "groß".encode()])
def test_a_new_file_takes_the_old_ones_place(tmp_path, content):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with replace_file(target) as part:
        part.write_bytes(content)
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == content
    assert names(tmp_path) == ["a.bin"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), replace_file(target) as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    target = tmp_path / "a.txt"
    name_part_file(target).write_text("a longer beginning of what a killed process wrote")
    with replace_file(target) as part:
        part.write_text("new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_a_hard_link_to_the_old_file_keeps_its_content(tmp_path):
    target, link = tmp_path / "card.md", tmp_path / "link.md"
    target.write_text("old")
    os.link(target, link)
    with replace_file(target) as part:
        part.write_text("new")
    assert (target.read_text(), link.read_text()) == ("new", "old")


def test_the_temporary_file_may_lie_in_another_folder(tmp_path):
    target = tmp_path / "model" / "card.md"
    target.parent.mkdir()
    with replace_file(target, tmp_path) as part:
        part.write_text("new")
        assert names(target.parent) == []
    assert target.read_text() == "new"
    assert names(tmp_path) == ["model"]


def test_a_folder_is_replaced_with_everything_in_it(tmp_path):
    target = tmp_path / "release"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with replace_folder(target) as new:
        (new / "below").mkdir()
        (new / "below" / "new.txt").write_text("new")
        assert names(target) == ["old.txt"]
    assert names(target) == ["below"]
    assert names(tmp_path) == ["release"]


def test_an_error_leaves_the_old_folder_and_nothing_beside_it(tmp_path):
    target = tmp_path / "release"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(OSError, match="full"), replace_folder(target) as new:
        (new / "new.txt").write_text("ne")
        raise OSError("full")
    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["release"]


def test_only_folders_need_not_be_flushed(tmp_path, monkeypatch):
    """Some network file systems answer the flush of a folder with EINVAL."""
    file = tmp_path / "a.txt"
    file.write_text("a")

    def refuse(handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("drift_data.workspace.atomic.os.fsync", refuse)
    sync_to_disk(tmp_path)
    with pytest.raises(OSError, match="Invalid argument"):
        sync_to_disk(file)
