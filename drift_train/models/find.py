"""Finds a model that a run needs: a workspace folder, another folder, or a Hub id. Imports no torch."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from drift_data.workspace import MANIFEST, UserError, Workspace, hash_folder

_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class Base:
    """A model that is given to a run, and what the manifests record of it."""

    name: str  # as the user gave it
    path: Path
    inputs: tuple[str, ...]  # folders of the workspace
    files: dict[str, str]  # anything else and its digest, or revision on the Hub


def resolve_base(workspace: Workspace, name: str, what: str = "base model") -> Base:
    """Find a model: a folder of the workspace, another local folder, or a Hub id, which is then downloaded.

    Args:
        workspace: where to look first.
        name: of the folder, or owner/name of the Hub, to which @revision may be added.
        what: the model is for, in messages.

    Raises:
        UserError: none of the three is there.
    """
    inside = workspace.path(name)
    if not Path(name).is_absolute() and (inside / MANIFEST).is_file():
        return Base(name, inside, (name,), {})
    if Path(name).is_dir():
        _require_config(Path(name))
        return Base(name, Path(name), (), {f"{what.split()[0]}:{name}": hash_folder(Path(name))})
    identity, _, revision = name.partition("@")
    if identity.count("/") != 1 or name.startswith((".", "/")):
        raise UserError(
            f"No {what} {name}: it is neither a finished folder of {workspace.root}, nor a folder, nor a "
            "Hub id such as owner/name."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(identity, revision=revision or None, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"The {what} {name} is not a folder, and the Hub does not give it: {error}"
        ) from error
    _require_config(path)
    return Base(name, path, (), {f"{what.split()[0]}:{name}": f"revision:{path.name}"})


def _require_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} is no model: it has no config.json. Give a folder made by save_pretrained."
        )


def link_model(source: Path, target: Path) -> None:
    """Make `target` the same model as `source`, by hard links where they can be made."""
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.name == MANIFEST:
            continue
        real = path.resolve()  # a Hub snapshot is made of links
        try:
            os.link(real, target / path.name)
        except OSError:  # another file system
            shutil.copyfile(real, target / path.name)
