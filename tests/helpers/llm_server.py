"""An OpenAI-compatible chat server for tests: real HTTP on loopback, fast, and faulty when told to be.

In a test:

    with LLMServer(answer) as server:      # answer(body, count) → what to send; None: the default answer
        … server.base_url, server.requests, server.counts, server.most_at_once

`count` is how often this very request has come, this time included. As a process of its own, which outlives the
client and writes a line for each request before it answers:

    python -m tests.helpers.llm_server --port 0 --latency 0.2 --log received.txt        (prints its base URL)

The default answer fills the request's JSON schema with values that depend on the request alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httptools

Body = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """A chat completion."""

    content: str | None = None  # None: the default answer
    finish_reason: str | None = "stop"
    refusal: str | None = None
    usage: bool = True  # say how many tokens it took
    cached_tokens: int = 0
    delay: float = 0.0  # seconds, beside the server's latency


@dataclass(frozen=True)
class Fault:
    """A response that is no chat completion: by default an error in the API's format."""

    status: int = 500
    message: str = "told to fail"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None  # the body, instead of an error in JSON
    delay: float = 0.0


@dataclass(frozen=True)
class Cut:
    """The connection ends in the middle of the answer (or before its first byte)."""

    after: float = 0.5  # share of the response that is sent


@dataclass(frozen=True)
class Hang:
    """No answer at all; the connection stays open."""


Action = Reply | Fault | Cut | Hang
Answering = Callable[[Body, int], Action | str | None]


def default_answer(body: Body) -> str:
    """Return what depends on the request alone: a value of its JSON schema, or a line of text."""
    asked = json.dumps(body["messages"], sort_keys=True)
    wanted = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if wanted is None:
        return f"Answer {_number(asked, 'text', 10**9)}"
    return json.dumps(fill(wanted, asked))


def fill(schema: Mapping[str, Any], seed: str, path: str = "") -> Any:
    """Return a value of a JSON schema, chosen by a hash of the seed and of the place."""
    if "enum" in schema:
        return schema["enum"][_number(seed, path, len(schema["enum"]))]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties", {})
        return {name: fill(inner, seed, f"{path}.{name}") for name, inner in properties.items()}
    if kind == "array":
        least = schema.get("minItems", 0)
        length = least + _number(seed, path, schema.get("maxItems", least + 2) - least + 1)
        return [fill(schema["items"], seed, f"{path}[{place}]") for place in range(length)]
    if kind == "integer":
        low = schema.get("minimum", 0)
        return low + _number(seed, path, schema.get("maximum", low + 9) - low + 1)
    if kind == "number":
        return _number(seed, path, 1000) / 1000
    if kind == "boolean":
        return bool(_number(seed, path, 2))
    if kind == "string":
        return f"text {_number(seed, path, 1000)}"
    return None


def _number(seed: str, path: str, below: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{path}\0{seed}".encode()).digest()[:8], "big") % below


class LLMServer:
    """The server and what it has seen.

    Args:
        answer: decides on each request; runs in the server's thread.
        latency: seconds before each answer.
        key: the API key that it wants; None: it asks for none.
        log: file that gets a line for each request when it comes: a digest of its body.
        keep: hold the bodies in `requests`, and count equal ones.
    """

    def __init__(
        self,
        answer: Answering | None = None,
        *,
        latency: float = 0.0,
        key: str | None = None,
        log: Path | None = None,
        keep: bool = True,
        port: int = 0,
    ) -> None:
        self.requests: list[Body] = []  # in the order they came
        self.counts: Counter[str] = Counter()  # of requests, by the text of the last message
        self.statuses: Counter[int] = Counter()  # sent; 0: a cut or a hang
        self.at_once = self.most_at_once = 0
        self.received = 0
        self.answer, self.latency, self.key, self.keep = answer, latency, key, keep
        self._times: Counter[bytes] = Counter()  # of each body
        self._log = None if log is None else os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._port = port
        self._failures: list[BaseException] = []  # of `answer`
        self._connections: set[_Connection] = set()
        self._started, self._stop = threading.Event(), asyncio.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def connections(self) -> int:
        """Return how many are open."""
        return len(self._connections)

    def __enter__(self) -> LLMServer:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._failures:
            raise self._failures[0]

    def close(self) -> None:
        """Stop listening and cut all connections; may be called early, to be gone."""
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None

    async def serve(self, started: Callable[[], None] | None = None) -> None:
        """Serve until told to stop."""
        self._loop = asyncio.get_running_loop()
        server = await self._loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self._port, backlog=512
        )
        self._port = server.sockets[0].getsockname()[1]
        self._started.set()
        if started is not None:
            started()
        await self._stop.wait()
        server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        if self._log is not None:
            os.close(self._log)

    def action(self, data: bytes, authorization: str) -> tuple[Body, Action]:
        """Take a request down and decide on the answer."""
        if self._log is not None:
            os.write(self._log, hashlib.sha256(data).hexdigest().encode() + b"\n")
        self.received += 1
        body: Body = json.loads(data)
        if self.keep:
            self.requests.append(body)
            self.counts[body["messages"][-1]["content"]] += 1
        if self.key is not None and authorization != f"Bearer {self.key}":
            given = authorization.removeprefix("Bearer ")
            return body, Fault(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
        if self.answer is None:
            return body, Reply()
        if self.keep:
            self._times[data] += 1
        try:
            action = self.answer(body, self._times[data])
        except BaseException as error:
            self._failures.append(error)
            return body, Fault(500, f"the test's answer function failed: {error!r}")
        if action is None:
            action = Reply()
        return body, Reply(action) if isinstance(action, str) else action


class _Connection(asyncio.Protocol):
    """One connection: reads requests, one after the other, and answers them."""

    def __init__(self, server: LLMServer) -> None:
        self._server = server
        self._open = False

    def connection_made(self, transport: Any) -> None:
        self.transport, self._parser = transport, httptools.HttpRequestParser(self)
        self._server._connections.add(self)
        self._open = True

    def connection_lost(self, error: Exception | None) -> None:
        self._server._connections.discard(self)
        self._open = False

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    # the parser calls these

    def on_message_begin(self) -> None:
        self._parts: list[bytes] = []
        self._authorization, self._path = "", b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self._authorization = value.decode()

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        if self._path.endswith(b"/models"):
            self._send(
                200, json.dumps({"object": "list", "data": [{"id": "test", "object": "model"}]}).encode()
            )
            return
        if not self._path.endswith(b"/chat/completions"):
            self._send(404, _error(Fault(404, f"no such path: {self._path.decode()}")))
            return
        server = self._server
        body, action = server.action(b"".join(self._parts), self._authorization)
        server.at_once += 1
        server.most_at_once = max(server.most_at_once, server.at_once)
        delay = server.latency + (action.delay if isinstance(action, Reply | Fault) else 0.0)
        if delay:
            asyncio.get_running_loop().call_later(delay, self._finish, body, action)
        else:
            self._finish(body, action)

    def _finish(self, body: Body, action: Action) -> None:
        server = self._server
        server.at_once -= 1
        match action:
            case Hang():
                server.statuses[0] += 1
            case Cut():
                server.statuses[0] += 1
                whole = _response(200, _completion(body, Reply()), {})
                if self._open:
                    self.transport.write(whole[: int(len(whole) * action.after)])
                    self.transport.close()
            case Fault():
                server.statuses[action.status] += 1
                self._send(action.status, _error(action), action.headers)
            case Reply():
                server.statuses[200] += 1
                self._send(200, _completion(body, action))

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        if self._open:
            self.transport.write(_response(status, content, headers or {}))


def _response(status: int, content: bytes, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n{lines}\r\n"
    return head.encode() + content


def _error(fault: Fault) -> bytes:
    if fault.raw is not None:
        return fault.raw
    error = {"message": fault.message, "type": "error", "param": None, "code": fault.code}
    return json.dumps({"error": error}).encode()


def _completion(body: Body, reply: Reply) -> bytes:
    content = reply.content
    if content is None and reply.refusal is None:
        content = default_answer(body)
    prompt = sum(len(message["content"]) for message in body["messages"]) // 4
    answered = len(content or "") // 4
    completion: Body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": reply.refusal},
                "finish_reason": reply.finish_reason,
            }
        ],
    }
    if reply.usage:
        completion["usage"] = {
            "prompt_tokens": prompt,
            "completion_tokens": answered,
            "total_tokens": prompt + answered,
            "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
        }
    return json.dumps(completion).encode()


@contextlib.contextmanager
def server_process(
    *, latency: float = 0.0, log: Path | None = None, cpu: int | None = None, length: int | None = None
) -> Iterator[str]:
    """Run the server in a process of its own and yield its base URL."""
    command = [sys.executable, __file__, "--latency", str(latency)]
    command += [] if log is None else ["--log", str(log)]
    command += [] if cpu is None else ["--cpu", str(cpu)]
    command += [] if length is None else ["--length", str(length)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--log", type=Path, help="gets a line for each request when it comes")
    parser.add_argument("--cpu", type=int, help="run on this core only")
    parser.add_argument("--length", type=int, help="answer all requests with so many letters")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    reply = None if options.length is None else Reply("x" * options.length)
    server = LLMServer(
        reply and (lambda body, count: reply),
        latency=options.latency,
        log=options.log,
        keep=False,
        port=options.port,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve(lambda: print(server.base_url, flush=True)))


if __name__ == "__main__":
    main()
