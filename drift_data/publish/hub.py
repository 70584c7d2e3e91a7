"""Uploads a folder of files to a repository of the Hub, in one commit or not at all.

Every error of the Hub or the network becomes a `UserError` that says how to mend it. No message holds the token.

`HfApi.upload_folder` would do the same in one call, but where `hf_xet` is installed (the default) it splits an upload
into several commits after 250 files or five minutes. Readers would then find a model with half of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from drift_data.workspace import UserError

_RETRY_ADVICE = "Nothing was published: a commit is all or nothing. Run the same command again"


@dataclass(frozen=True, slots=True)
class Upload:
    """The result of an upload."""

    url: str  # address of the commit that now holds the files
    changed: bool  # False: the newest commit held the same files already, and no commit was made
    private: bool  # whether the repository is private


def upload_folder(
    folder: Path,
    repo: str,
    *,
    kind: Literal["dataset", "model"],
    owned_prefixes: Sequence[str],
    private: bool,
    message: str,
    token: str | None,
    endpoint: str | None = None,
) -> Upload:
    """Commit all files of a folder to a repository, and create the repository if it does not exist.

    The Hub makes no commit when the repository holds the same files already.

    Args:
        folder: holds the files to upload.
        repo: owner/name.
        kind: kind of the repository; a data set and a model may have the same name.
        owned_prefixes: beginnings of the paths that this toolkit writes, such as "dsat/". A file of the repository
            that has one of them and is not in `folder` is deleted in the same commit. All other files stay.
        private: whether a new repository is private; if True, an existing public repository is refused.
        message: message of the commit.
        token: Hub token with write access.
        endpoint: address of the Hub; None: the default of `huggingface_hub`.

    Raises:
        UserError: there is no token, or the Hub refused, failed or could not be reached.
    """
    token = require_token(token)
    api = HfApi(endpoint=endpoint, token=token, library_name="drift-toolkit")
    with _translate_errors(repo, token, api.endpoint):
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        info = api.repo_info(repo, repo_type=kind)
        if private and not info.private:
            raise UserError(
                f"{repo} exists and is public, but publish.private is true. Choose another REPO=, make it "
                "private on the Hub, or publish in the open with SET='publish.private=false'."
            )
        added = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        there = api.list_repo_files(repo, repo_type=kind, revision=info.sha)
        deleted = {path for path in there if path.startswith(tuple(owned_prefixes))}.difference(added)
        commit = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(path, folder / path) for path in added),
                *(CommitOperationDelete(path) for path in sorted(deleted)),
            ],
            repo_type=kind,
            commit_message=message,
            parent_commit=info.sha,  # the Hub refuses the commit if somebody else has committed since
        )
    return Upload(commit.commit_url, changed=commit.oid != info.sha, private=bool(info.private))


def require_token(token: str | None) -> str:
    """Return the token without white space around it.

    Raises:
        UserError: there is no token, or it cannot be sent in a header. The message does not hold the token.
    """
    token = (token or "").strip()
    if not token:
        raise UserError(
            "Publishing needs a Hub token with write access. Make one at "
            "https://huggingface.co/settings/tokens and set it as HF_TOKEN in the environment."
        )
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError("HF_TOKEN is no token: it has characters that no token has. Copy it again.")
    return token


def check_repo_name(repo: str) -> None:
    """Raise a UserError unless a name has the form owner/name."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"REPO={repo!r} is no name on the Hub: {error}") from None
    if repo.count("/") != 1:
        raise UserError(f"REPO={repo!r} is no name on the Hub: it has the form owner/name.")


@contextmanager
def _translate_errors(repo: str, token: str, endpoint: str) -> Iterator[None]:
    """Turn errors of the Hub and the network into a `UserError`; any other error is a bug and passes."""
    try:
        yield
    except HFValidationError:
        raise UserError(
            f"REPO={repo!r} is no name of a Hub repository. It has the form owner/name."
        ) from None
    except OfflineModeIsEnabled:
        raise UserError(
            "The Hub libraries are switched off here (HF_HUB_OFFLINE=1, or a recipe with `offline: true`). "
            "Publish with SET='offline=false' and without that variable."
        ) from None
    except Exception as error:
        message = _explain_error(error, repo, endpoint)
        if message is None:
            raise
        raise UserError(message.replace(token, "***")) from None


def _explain_error(error: BaseException | None, repo: str, endpoint: str) -> str | None:
    """Return the message for the user, or None if no error of the chain comes from the Hub or the network."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return _explain_status(error.response.status_code, error.server_message, repo, endpoint)
        if isinstance(error, HTTPError):
            return (
                f"The connection to {endpoint} broke while publishing {repo} ({type(error).__name__}). "
                "A commit is all or nothing. Run the same command again: files that arrived are not sent "
                "twice."
            )
        error = error.__cause__ or error.__context__
    return None


def _explain_status(status: int, said: str | None, repo: str, endpoint: str) -> str:
    """Return the message for an HTTP status; `said` is the Hub's own explanation."""
    detail = f" The Hub said: {' '.join(said.split())[:200]}" if said else ""
    match status:
        case 401:
            return (
                f"The Hub does not take the token (401). Make one with write access at "
                f"{endpoint}/settings/tokens and set it as HF_TOKEN.{detail}"
            )
        case 403:
            return (
                f"The token may not write to {repo} (403). Use a token with write access to it, or another "
                f"REPO=.{detail}"
            )
        case 404:
            return f"The Hub has no {repo}, or the token may not see it (404). Check REPO=owner/name.{detail}"
        case 409:
            return f"Something else is writing to {repo} (409). {_RETRY_ADVICE} in a moment.{detail}"
        case 412:
            return f"{repo} got another commit in the meantime (412). {_RETRY_ADVICE}.{detail}"
        case 429:
            return f"The Hub asks to slow down (429). {_RETRY_ADVICE} in some minutes.{detail}"
        case _ if status >= 500:
            return f"The Hub failed ({status}). {_RETRY_ADVICE} later.{detail}"
        case _:
            return f"The Hub refused to publish {repo} ({status}). Nothing was published.{detail}"
