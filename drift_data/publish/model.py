"""Publishes one trained model of a run as a repository of the Hub: weights, tokenizer and card, in one commit.

What is unfinished, stale or damaged is refused. Files that are no part of a model stay here, and are named. What the
card says is `cards`' business, what the Hub is told and how it fails `hub`'s.
"""

from __future__ import annotations

import re
import shutil
import sys
from fnmatch import fnmatch
from pathlib import Path

from drift_data.publish.cards.model import render_model_card
from drift_data.publish.options import PublishOptions
from drift_data.publish.stage import STAGING
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

_WEIGHTS = "model*.safetensors"
_FILES = (  # what transformers and vllm read; never optimizer states, logs, pickles or code
    _WEIGHTS, "model.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "chat_template.jinja",
)  # fmt: skip
_OWNED = ("model-", "model.")  # weights in the repository that are not in the folder: another model's shards


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
    """Upload a model with its card. Equal content: no commit.

    Args:
        workspace: holds the run.
        repo: owner/name of a model repository, made when it is not there.
        run: name of the run.
        model: which of its models, e.g. "iter2".
        options: `private` and `licence` count here.
        alarms: thresholds of the alarms that the card shows.
        token: with write access. It is neither kept nor shown.
        endpoint: of the Hub; None is what `huggingface_hub` takes by itself.

    Returns:
        The address of the commit that holds the model.

    Raises:
        UserError: no token, the model is missing, stale, damaged or the base model itself, or the Hub refused.
    """
    from drift_data.publish import hub

    token = hub.checked_token(token)
    hub.check_repo(repo)
    with workspace.lock():
        iteration = _iteration(workspace, run, model)
        name = locate_output(run, model, "model")
        files, left = _files(workspace, name)
        card = render_model_card(workspace, run, iteration, alarms, repo, options.licence)
        staging = workspace.root / STAGING
        shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
        try:
            staging.mkdir()
            for path in files:
                (staging / path.name).symlink_to(path.resolve())  # weights are large
            (staging / CARD).write_text(card, encoding="utf-8")
            done = hub.upload(
                staging,
                repo,
                kind="model",
                owned=_OWNED,
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


def _iteration(workspace: Workspace, run: str, model: str) -> int:
    """Return the number of a model that is there, or say which are."""
    found = sorted(path.parts[-3] for path in workspace.path(locate_run(run)).glob(f"iter*/model/{MANIFEST}"))
    if not re.fullmatch(r"iter\d+", model) or model not in found:
        raise UserError(
            f"Run {run!r} of {workspace.root} has no finished model {model!r}. Give MODEL_OF= one of: "
            f"{', '.join(found) or 'none yet; `make iter N=1` makes one'}."
        )
    return int(model.removeprefix("iter"))


def _files(workspace: Workspace, name: str) -> tuple[list[Path], list[str]]:
    """Return the files of a model that are published, and the names of the others.

    Raises:
        UserError: it is stale, not what its manifest says, the base model, or cannot be loaded.
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
    files = [path for path in present if any(fnmatch(path.name, pattern) for pattern in _FILES)]
    names = {path.name for path in files}
    if "config.json" not in names or not any(fnmatch(each, _WEIGHTS) for each in names):
        raise UserError(f"{folder} is no model that transformers loads: config.json or weights are missing.")
    return files, [path.name for path in present if path not in files]
