"""Finds a model by its name: a folder of the workspace, another folder, or a Hub id. Does not import torch."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from drift_data.workspace import MANIFEST, UserError, Workspace, hash_folder

# Patterns of the files that are downloaded: weights as safetensors, and no code.
_HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class FoundModel:
    """A model that a run is given, and what manifests record of it.

    Attributes:
        name: as the user gave it.
        path: folder with the model's files.
        inputs: the model's folder where it is one of the workspace, else empty.
        files: a model outside the workspace, e.g. "base:owner/name" → its digest, or its revision on the Hub; else empty.
    """

    name: str
    path: Path
    inputs: tuple[str, ...]
    files: dict[str, str]


def find_model(workspace: Workspace, name: str, what: str = "base model") -> FoundModel:
    """Return a model: a folder of the workspace, another local folder, or a Hub id, which is downloaded.

    Args:
        workspace: is searched first.
        name: a folder, or owner/name on the Hub, to which @revision may be added.
        what: what messages call the model, e.g. "reward model".

    Raises:
        UserError: there is no such folder, and the Hub does not give it.
    """
    inside = workspace.path(name)
    if not Path(name).is_absolute() and (inside / MANIFEST).is_file():
        return FoundModel(name, inside, (name,), {})
    if Path(name).is_dir():
        _require_config(Path(name))
        return FoundModel(name, Path(name), (), {f"{what.split()[0]}:{name}": hash_folder(Path(name))})
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
    return FoundModel(name, path, (), {f"{what.split()[0]}:{name}": f"revision:{path.name}"})


def _require_config(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} does not hold a model: it has no config.json. Give a folder made by save_pretrained."
        )


def link_model(source: Path, target: Path) -> None:
    """Fill the folder `target` with the model in `source`, by hard links where the file system allows them."""
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.name == MANIFEST:
            continue
        real = path.resolve()  # the files of a Hub snapshot are symbolic links
        try:
            os.link(real, target / path.name)
        except OSError:  # `target` is on another file system
            shutil.copyfile(real, target / path.name)
