"""Puts a folder of files into a repository of the Hub, in one commit or not at all.

It knows nothing of what the files hold. What goes wrong on the way becomes an error the user can mend; the
token is in none of them.
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

_AGAIN = "Nothing was published: a commit is all or nothing. Run the same command again"


@dataclass(frozen=True, slots=True)
class Upload:
    """What an upload came to."""

    url: str  # of the commit that now holds the files
    changed: bool  # False: that commit was there already with the same files
    private: bool  # whether the repository is


def upload(
    folder: Path,
    repo: str,
    *,
    kind: Literal["dataset", "model"],
    owned: Sequence[str],
    private: bool,
    message: str,
    token: str | None,
    endpoint: str | None = None,
) -> Upload:
    """Commit all files of a folder to a repository, which is created when it is not there.

    Args:
        folder: what the repository shall hold.
        repo: owner/name.
        kind: of the repository; a data set and a model may have the same name.
        owned: how the paths begin that belong to us, such as "dsat/": what is there and not in `folder` is
            deleted in the same commit. Everything else stays.
        private: of a new repository; an existing public one is then refused.
        message: of the commit.
        token: with write access.
        endpoint: of the Hub; None is what `huggingface_hub` takes by itself.

    Raises:
        UserError: no token, or the Hub refused, failed or could not be reached.
    """
    token = checked_token(token)
    api = HfApi(endpoint=endpoint, token=token, library_name="drift-toolkit")
    with _clear_errors(repo, token, api.endpoint):
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        info = api.repo_info(repo, repo_type=kind)
        if private and not info.private:
            raise UserError(
                f"{repo} exists and is public, but publish.private is true. Choose another REPO=, make it "
                "private on the Hub, or publish in the open with SET='publish.private=false'."
            )
        here = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        gone = [
            path
            for path in api.list_repo_files(repo, repo_type=kind, revision=info.sha)
            if path.startswith(tuple(owned)) and path not in set(here)
        ]
        commit = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(path, folder / path) for path in here),
                *(CommitOperationDelete(path) for path in gone),
            ],
            repo_type=kind,
            commit_message=message,
            parent_commit=info.sha,  # what happened in between shall not be overwritten
        )
    return Upload(commit.commit_url, changed=commit.oid != info.sha, private=bool(info.private))


def checked_token(token: str | None) -> str:
    """Return a token without white space around it.

    Raises:
        UserError: there is none, or it cannot be sent in a header. The message does not hold it.
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


def check_repo(repo: str) -> None:
    """Raise a UserError unless a name has the form owner/name."""
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(f"REPO={repo!r} is no name on the Hub: {error}") from None
    if repo.count("/") != 1:
        raise UserError(f"REPO={repo!r} is no name on the Hub: it has the form owner/name.")


@contextmanager
def _clear_errors(repo: str, token: str, endpoint: str) -> Iterator[None]:
    """Turn what the Hub and the network answer into a UserError; other errors pass, they are bugs."""
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
        message = _explain(error, repo, endpoint)
        if message is None:
            raise
        raise UserError(message.replace(token, "***")) from None


def _explain(error: BaseException | None, repo: str, endpoint: str) -> str | None:
    """Return what to tell the user, from the first error of the chain that the Hub or the network made."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return _status(error.response.status_code, error.server_message, repo, endpoint)
        if isinstance(error, HTTPError):
            return (
                f"The connection to {endpoint} broke while publishing {repo} ({type(error).__name__}). "
                "A commit is all or nothing. Run the same command again: files that arrived are not sent "
                "twice."
            )
        error = error.__cause__ or error.__context__
    return None


def _status(status: int, said: str | None, repo: str, endpoint: str) -> str:
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
            return f"Something else is writing to {repo} (409). {_AGAIN} in a moment.{detail}"
        case 412:
            return f"{repo} got another commit in the meantime (412). {_AGAIN}.{detail}"
        case 429:
            return f"The Hub asks to slow down (429). {_AGAIN} in some minutes.{detail}"
        case _ if status >= 500:
            return f"The Hub failed ({status}). {_AGAIN} later.{detail}"
        case _:
            return f"The Hub refused to publish {repo} ({status}). Nothing was published.{detail}"
