"""A Hub for tests: a real HTTP server on loopback with data-set and model repositories and their commits in memory.

It speaks the part of the Hub's API that `huggingface_hub` and `datasets` use to create a repository, to
commit to it (Git LFS included, Xet not) and to read it back, and can be told to fail at any of these points.
It knows nothing about what the files mean.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_loopbackTokenThatMayWrite0123456789"
CUT = 0  # as a status: close the connection instead of answering
MODELS = "models/"  # before the name of a model repository in the store; a data set's is the name alone
_LARGE = (".parquet", ".safetensors")
_INITIAL = {
    ".gitattributes": b"".join(b"*%s filter=lfs diff=lfs merge=lfs -text\n" % s.encode() for s in _LARGE)
}


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    private: bool
    commits: list[Commit] = field(default_factory=list)

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def commit(self, message: str, files: dict[str, bytes]) -> Commit:
        contents = sorted((path, _git_hash(content)) for path, content in files.items())
        seed = f"{len(self.commits)}{message}{contents}"
        self.commits.append(Commit(hashlib.sha1(seed.encode()).hexdigest(), message, files))
        return self.head

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.head
        return next((commit for commit in self.commits if commit.oid == revision), None)


@dataclass
class Fault:
    point: str
    status: int
    times: int
    message: str


class HubServer(ThreadingHTTPServer):
    """The server and its store. `fail` makes it misbehave; `requests` has every request it got."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}  # LFS objects by sha256
        self.requests: list[tuple[str, str, str]] = []  # point, method, path
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, name: str, *, private: bool = True) -> Repo:
        repo = self.repos.setdefault(name, Repo(private))
        if not repo.commits:
            repo.commit("initial commit", dict(_INITIAL))
        return repo

    def fail(self, point: str, status: int, times: int = 1_000, message: str = "told to fail") -> None:
        """Answer the next requests at a point with a status, or cut the connection (CUT).

        Points: create, validate, info, tree, preupload, batch, upload, verify, commit, resolve.
        """
        self.faults.append(Fault(point, status, times, message))

    def count(self, point: str) -> int:
        return sum(seen == point for seen, _, _ in self.requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client goes away: the tests look at the client's side."""


@contextmanager
def hub_server() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        self._dispatch()

    do_HEAD = do_POST = do_PUT = do_GET

    # one request

    def _dispatch(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        point, repo, rest = _route(self.command, parts)
        with self.server.lock:
            self.server.requests.append((point, self.command, self.path))
            fault = next((f for f in self.server.faults if f.point == point and f.times > 0), None)
            if fault is not None:
                fault.times -= 1
        if fault is not None and fault.status == CUT:
            self.rfile.read(
                min(64, int(self.headers.get("Content-Length") or 64))
            )  # in the middle of the body
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self._body()
        if fault is not None:
            self._error(fault.status, fault.message)
            return
        if not self._may(point, repo):
            return
        with self.server.lock:
            getattr(self, f"_{point.replace('-', '_')}")(body, repo, rest)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _may(self, point: str, repo: str) -> bool:
        """Check the token as the Hub does: a private repository one may not see looks like a missing one."""
        given = self.headers.get("Authorization")
        if point == "upload":  # a signed address on the real Hub
            return True
        if given is not None and given != f"Bearer {TOKEN}":
            self._error(401, "Invalid credentials in Authorization header")
            return False
        known = self.server.repos.get(repo)
        writes = self.command not in ("GET", "HEAD") and point not in ("validate", "paths-info")
        if given is None and (writes or (known is not None and known.private)):
            self._error(401, "Repository not found", "RepoNotFound")
            return False
        if known is None and repo:
            self._error(404, "Repository not found", "RepoNotFound")
            return False
        return True

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Message": message}
        if code:
            headers["X-Error-Code"] = code
        self._answer(status, json.dumps({"error": message}).encode(), headers)

    def _commit_at(self, repo: str, revision: str) -> Commit | None:
        commit = self.server.repos[repo].at(revision)
        if commit is None:
            self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # writing

    def _create(self, body: bytes, repo: str, rest: str) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        model = wanted.get("type", "model") == "model"
        name = f"{MODELS}{name}" if model else name
        url = f"{self.server.endpoint}/{_place(name)}"
        if name in self.server.repos:
            self._json({"error": "You already created this repo", "url": url}, 409)
            return
        self.server.create(
            name, private=wanted.get("visibility") == "private" or wanted.get("private") is True
        )
        self._json({"url": url, "name": name})

    def _validate(self, body: bytes, repo: str, rest: str) -> None:
        content = json.loads(body)["content"]
        if not content.startswith("---\n"):
            self._json({"errors": [{"message": "no metadata"}], "warnings": []}, 400)
            return
        self._json({"errors": [], "warnings": []})

    def _preupload(self, body: bytes, repo: str, rest: str) -> None:
        files = self.server.repos[repo].head.files
        answers = []
        for file in json.loads(body)["files"]:
            old = files.get(file["path"])
            mode = "lfs" if file["path"].endswith(_LARGE) else "regular"
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if old is not None:
                answer["oid"] = hashlib.sha256(old).hexdigest() if mode == "lfs" else _git_hash(old)
            answers.append(answer)
        self._json({"files": answers})

    def _batch(self, body: bytes, repo: str, rest: str) -> None:
        objects = []
        for wanted in json.loads(body)["objects"]:
            answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.blobs:
                answer["actions"] = {
                    "upload": {"href": f"{self.server.endpoint}/lfs/upload/{wanted['oid']}", "header": {}},
                    "verify": {"href": f"{self.server.endpoint}/lfs/verify/{wanted['oid']}", "header": {}},
                }
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _upload(self, body: bytes, repo: str, rest: str) -> None:
        if hashlib.sha256(body).hexdigest() != rest:
            self._error(400, "content does not match its sha256")
            return
        self.server.blobs[rest] = body
        self._answer(200)

    def _verify(self, body: bytes, repo: str, rest: str) -> None:
        wanted = json.loads(body)
        if len(self.server.blobs.get(wanted["oid"], b"")) != wanted["size"]:
            self._error(404, "object is not there")
            return
        self._json({})

    def _commit(self, body: bytes, repo: str, rest: str) -> None:
        store, message = self.server.repos[repo], ""
        files = dict(store.head.files)
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit", store.head.oid) != store.head.oid:
                    self._error(412, "A commit has happened since. Please refresh and try again.")
                    return
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.server.blobs:
                    self._error(400, f"LFS object {value['oid']} was not uploaded")
                    return
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
            else:
                self._error(400, f"unknown operation {item['key']}")
                return
        commit = store.commit(message, files)
        url = f"{self.server.endpoint}/{_place(repo)}/commit/{commit.oid}"
        self._json({"success": True, "commitUrl": url, "commitOid": commit.oid, "pullRequestUrl": None})

    # reading

    def _info(self, body: bytes, repo: str, rest: str) -> None:
        commit = self._commit_at(repo, rest or "main")
        if commit is not None:
            store = self.server.repos[repo]
            siblings = [{"rfilename": path} for path in sorted(commit.files)]
            self._json(
                {"id": repo, "sha": commit.oid, "private": store.private, "siblings": siblings, "tags": []}
            )

    def _tree(self, body: bytes, repo: str, rest: str) -> None:
        revision, _, folder = rest.partition("/")
        commit = self._commit_at(repo, revision)
        if commit is None:
            return
        inside = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path in sorted(commit.files):
            if not path.startswith(inside):
                continue
            steps = path.removeprefix(inside).split("/")
            for depth in range(1, len(steps)):
                entry = inside + "/".join(steps[:depth])
                entries[entry] = {
                    "type": "directory",
                    "path": entry,
                    "oid": _git_hash(entry.encode()),
                    "size": 0,
                }
            entries[path] = _entry(path, commit.files[path])
        if self.query.get("recursive", "false").lower() != "true":
            entries = {path: entry for path, entry in entries.items() if "/" not in path.removeprefix(inside)}
        if folder and not entries:
            self._error(404, f"{folder} does not exist on {revision}", "EntryNotFound")
            return
        self._json(list(entries.values()))

    def _paths_info(self, body: bytes, repo: str, rest: str) -> None:
        commit = self._commit_at(repo, rest)
        if commit is None:
            return
        try:
            paths = json.loads(body)["paths"]
        except json.JSONDecodeError:
            paths = parse_qs(body.decode())["paths"]
        answer = []
        for path in [paths] if isinstance(paths, str) else paths:
            if path in commit.files:
                answer.append(_entry(path, commit.files[path]))
            elif any(name.startswith(f"{path}/") for name in commit.files):
                answer.append(_folder(path))
        self._json(answer)

    def _resolve(self, body: bytes, repo: str, rest: str) -> None:
        revision, _, path = rest.partition("/")
        commit = self._commit_at(repo, revision)
        if commit is None:
            return
        content = commit.files.get(path)
        if content is None:
            self._error(404, f"{path} does not exist on {revision}", "EntryNotFound")
            return
        lfs = path.endswith(_LARGE)
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest() if lfs else _git_hash(content)}"',
            "X-Repo-Commit": commit.oid,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if wanted and self.command == "GET":
            first, _, last = wanted.partition("-")
            start, end = int(first), min(int(last or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self._answer(206, content[start : end + 1], headers)
            return
        self._answer(200, content, headers)

    def _unknown(self, body: bytes, repo: str, rest: str) -> None:
        self._error(404, f"this Hub has no {self.command} {self.path}")


def _route(method: str, parts: list[str]) -> tuple[str, str, str]:
    """Return (point, repository or "", what follows) of a path, e.g. /api/datasets/owner/name/commit/main."""
    match parts:
        case ["api", "repos", "create"]:
            return "create", "", ""
        case ["api", "validate-yaml"]:
            return "validate", "", ""
        case ["lfs", ("upload" | "verify") as point, oid]:
            return point, "", oid
        case ["api", ("datasets" | "models") as kind, owner, name, *rest]:
            repo = f"{'' if kind == 'datasets' else MODELS}{owner}/{name}"
            match rest:
                case []:
                    return "info", repo, ""
                case ["revision", revision]:
                    return "info", repo, revision
                case [("preupload" | "commit" | "tree" | "paths-info") as point, *last]:
                    return point, repo, "/".join(last)
        case ["datasets", owner, name, *rest]:
            return _files_route(f"{owner}/{name}", rest)
        case [owner, name, *rest]:
            return _files_route(f"{MODELS}{owner}/{name}", rest)
    return "unknown", "", f"{method} {'/'.join(parts)}"


def _files_route(repo: str, rest: list[str]) -> tuple[str, str, str]:
    match rest:
        case ["info", "lfs", "objects", "batch"]:
            return "batch", repo.removesuffix(".git"), ""
        case ["resolve", *last]:
            return "resolve", repo, "/".join(last)
    return "unknown", "", f"{repo}/{'/'.join(rest)}"


def _place(repo: str) -> str:
    """Return where a repository lies on the Hub: data sets in a folder of their own, models not."""
    return repo.removeprefix(MODELS) if repo.startswith(MODELS) else f"datasets/{repo}"


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "oid": _git_hash(content), "size": len(content)}
    if path.endswith(_LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": _git_hash(path.encode()), "size": 0}


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
