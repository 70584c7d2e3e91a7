"""Publishes one trained model of a run on the Hub: weights, tokenizer and card, in one commit.

A model that is unfinished, stale or damaged is refused. Files that do not belong to a model are not uploaded, and are
named. `cards/model.py` writes the card and `hub.py` uploads.
"""

from __future__ import annotations

import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from drift_data.publish.cards.model import render_model_card
from drift_data.publish.options import PublishOptions
from drift_data.publish.stage import STAGING_FOLDER
from drift_data.report.options import AlarmOptions
from drift_data.workspace import (
    CARD,
    MANIFEST,
    UserError,
    Workspace,
    hash_folder,
    locate_output,
    locate_run,
)

_WEIGHT_FILES = "model*.safetensors"
# Patterns of the files that transformers and vLLM read. Optimizer states, logs, pickles and code are never uploaded.
_MODEL_FILES = (
    _WEIGHT_FILES, "model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "chat_template.jinja",
)  # fmt: skip
# Beginnings of names of weight files. Those in the repository that are not uploaded again are shards of an earlier model.
_WEIGHT_PREFIXES = ("model-", "model.")


def publish_model(
    workspace: Workspace,
    repo: str,
    run: str,
    model: str,
    options: PublishOptions,
    alarms: AlarmOptions,
    token: str | None,
    endpoint: str | None = None,
) -> str:
    """Upload a model with its card. If the repository has the same content already, no commit is made.

    Args:
        workspace: holds the run.
        repo: owner/name of a model repository, which is created if it does not exist.
        run: name of the run.
        model: which model of the run, e.g. "iter2".
        options: only `private` and `licence` are used.
        alarms: thresholds of the alarms that the card shows.
        token: Hub token with write access. It is neither stored nor shown.
        endpoint: address of the Hub; None: the default of `huggingface_hub`.

    Returns:
        The address of the commit that holds the model.

    Raises:
        UserError: there is no token; the model is missing, stale, damaged or the unchanged base model; or the Hub
            refused.
    """
    from drift_data.publish import hub

    token = hub.require_token(token)
    hub.check_repo_name(repo)
    with workspace.lock():
        iteration = _find_iteration(workspace, run, model)
        name = locate_output(run, model, "model")
        files, left = _choose_files(workspace, name)
        card = render_model_card(workspace, run, iteration, alarms, repo, options.licence)
        staging = workspace.root / STAGING_FOLDER
        shutil.rmtree(staging, ignore_errors=True)  # a killed run leaves it behind
        try:
            staging.mkdir()
            for path in files:
                (staging / path.name).symlink_to(path.resolve())  # weights are too large to copy
            (staging / CARD).write_text(card, encoding="utf-8")
            done = hub.upload_folder(
                staging,
                repo,
                kind="model",
                owned_prefixes=_WEIGHT_PREFIXES,
                private=options.private,
                message=f"Publish {model} of {run}",
                token=token,
                endpoint=endpoint,
            )
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    what = "published" if done.changed else "nothing to do, the same content is there already"
    seen = "private" if done.private else "public"
    size = sum(path.stat().st_size for path in files) / 1e9
    print(f"publish: {what}: {repo} ({seen}), {len(files)} files, {size:.2f} GB", file=sys.stderr)
    if left:
        print(f"publish: no part of a model, left here: {', '.join(left)}", file=sys.stderr)
    return done.url


def _find_iteration(workspace: Workspace, run: str, model: str) -> int:
    """Return the iteration number of a model.

    Raises:
        UserError: the run has no such finished model; the message names those it has.
    """
    found = sorted(path.parts[-3] for path in workspace.path(locate_run(run)).glob(f"iter*/model/{MANIFEST}"))
    if not re.fullmatch(r"iter\d+", model) or model not in found:
        raise UserError(
            f"Run {run!r} of {workspace.root} has no finished model {model!r}. Give MODEL_OF= one of: "
            f"{', '.join(found) or 'none yet; `make iter N=1` makes one'}."
        )
    return int(model.removeprefix("iter"))


def _choose_files(workspace: Workspace, name: str) -> tuple[list[Path], list[str]]:
    """Return the files of a model that are published, and the names of the other files in its folder.

    Raises:
        UserError: the model is stale, differs from its manifest, is the base model, or cannot be loaded.
    """
    manifest, folder = workspace.require(name), workspace.path(name)
    if manifest.made_by.get("warm_start") is False:
        raise UserError(
            f"{folder} is the base model {manifest.made_by.get('model')} itself: the run had no warm start. "
            "There is nothing of yours to publish; choose a later model."
        )
    if hash_folder(folder) != manifest.digest:
        raise UserError(
            f"{folder} is not what was trained: its files have changed since. Delete it and run "
            f"`make {manifest.stage}` again."
        )
    present = sorted(path for path in folder.iterdir() if path.name not in (MANIFEST, CARD))
    files = [path for path in present if any(fnmatch(path.name, pattern) for pattern in _MODEL_FILES)]
    names = {path.name for path in files}
    if "config.json" not in names or not any(fnmatch(each, _WEIGHT_FILES) for each in names):
        raise UserError(f"{folder} is no model that transformers loads: config.json or weights are missing.")
    return files, [path.name for path in present if path not in files]
