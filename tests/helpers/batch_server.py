"""A Batch API for tests: a real HTTP server on loopback that takes files, works batches off and hands results out.

Batches end after a number of looks at them, not after a time, so tests are as fast as they poll. It can be told
how each batch ends and to fail at any point. It knows nothing about who asks.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "sk-loopbackKeyThatMayAsk0123456789"
CUT = 0  # as a status: close the connection instead of answering

Body = dict[str, Any]


def completion(content: str, **message: Any) -> Body:
    """Return the body of a chat completion."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "test",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


def result(custom_id: str, body: Body, status: int = 200) -> Body:
    """Return a line of a result file (or, with a status from 400 up, of an error file)."""
    response = {"status_code": status, "request_id": "req_1", "body": body}
    return {"id": f"batch_req_{custom_id[:8]}", "custom_id": custom_id, "response": response, "error": None}


def failed(custom_id: str, status: int, message: str = "told to fail", code: str | None = None) -> Body:
    """Return a line of an error file: a request that the model's server refused."""
    return result(custom_id, {"error": {"message": message, "type": "error", "code": code}}, status)


def expired(custom_id: str) -> Body:
    """Return a line of an error file: a request that the batch never came to."""
    error = {"code": "batch_expired", "message": "This request could not be executed in time."}
    return {"id": f"batch_req_{custom_id[:8]}", "custom_id": custom_id, "response": None, "error": error}


@dataclass
class End:
    """How a batch ends."""

    status: str = "completed"
    results: list[Body] = field(default_factory=list)
    errors: list[Body] = field(default_factory=list)
    faults: list[Body] = field(default_factory=list)  # of the batch itself, when its status is "failed"
    looks: int = 2  # until it has ended


Plan = Callable[[int, list[Body]], End]  # number of the batch, its requests


def echo(request: Body) -> Body:
    """Return the result that answers with the user's message in capitals."""
    content = request["body"]["messages"][-1]["content"]
    return result(request["custom_id"], completion(content.upper()))


def all_answered(number: int, requests: list[Body]) -> End:
    """Answer every request, the last first."""
    return End(results=[echo(request) for request in reversed(requests)])


@dataclass
class Batch:
    body: Body
    requests: list[Body]
    end: End
    looks: int = 0


@dataclass
class Fault:
    point: str
    status: int
    times: int
    code: str | None
    after: bool  # fail only after the thing is done


class BatchServer(ThreadingHTTPServer):
    """The server and its state. `fail` makes it misbehave; `asked` counts requests by custom_id."""

    daemon_threads = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.plan = plan
        self.files: dict[str, bytes] = {}
        self.batches: list[Batch] = []
        self.asked: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.faults: list[Fault] = []
        self.queue_tokens: int | None = None  # stands for the account's limit: bytes of files at work at once
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def fail(
        self, point: str, status: int, times: int = 1_000, code: str | None = None, *, after: bool = False
    ) -> None:
        """Answer the next calls at a point with a status, or cut the connection (CUT).

        Points: upload, create, retrieve, list, content.
        """
        self.faults.append(Fault(point, status, times, code, after))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing when a client goes away: the tests look at the client's side."""


@contextmanager
def batch_server(plan: Plan = all_answered) -> Iterator[BatchServer]:
    server = BatchServer(plan)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: BatchServer
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet, or the client's system waits 40 ms to acknowledge
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        point = {
            ("POST", "files"): "upload",
            ("POST", "batches"): "create",
            ("GET", "files"): "content",
            ("GET", "batches"): "retrieve" if len(parts) > 2 else "list",
        }[self.command, parts[1]]
        with self.server.lock:
            self.server.calls[point] += 1
            fault = next((f for f in self.server.faults if f.point == point and f.times > 0), None)
            if fault is not None:
                fault.times -= 1
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                given = self.headers.get("Authorization", "").removeprefix("Bearer ")
                self._error(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
                return
            if fault is not None and not fault.after:
                self._fail(fault)
                return
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            answer = getattr(self, f"_{point}")(body, parts, query)
        if fault is not None:
            self._fail(fault)
        elif isinstance(answer, bytes):
            self._send(200, answer)
        elif isinstance(answer, str):
            self._error(400, answer, None)
        else:
            self._send(200, json.dumps(answer).encode())

    do_POST = do_GET

    def _fail(self, fault: Fault) -> None:
        if fault.status == CUT:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self._error(fault.status, "told to fail", fault.code)

    def _error(self, status: int, message: str, code: str | None) -> None:
        body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
        self._send(status, json.dumps(body).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            self.send_header("Retry-After-Ms", "1")
        self.end_headers()
        self.wfile.write(body)

    # the points

    def _upload(self, body: bytes, parts: list[str], query: dict[str, str]) -> Body | str:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)
            for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts()
        }
        if form["purpose"] != b"batch":
            return "purpose must be batch"
        name = f"file-{len(self.server.files)}"
        self.server.files[name] = form["file"]
        return {
            "id": name,
            "object": "file",
            "bytes": len(form["file"]),
            "created_at": 1,
            "filename": "requests.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def _create(self, body: bytes, parts: list[str], query: dict[str, str]) -> Body | str:
        wanted = json.loads(body)
        content = self.server.files[wanted["input_file_id"]]
        requests = [json.loads(line) for line in content.decode("utf-8").splitlines()]
        number = len(self.server.batches)
        end = self.server.plan(number, requests)
        busy = sum(len(json.dumps(b.requests)) for b in self.server.batches if b.looks < b.end.looks)
        limit = self.server.queue_tokens
        if limit is not None and busy + len(json.dumps(requests)) > limit:
            fault = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached."}
            end = End("failed", faults=[fault], looks=1)
        else:
            self.server.asked.update(request["custom_id"] for request in requests)
        made = {
            "id": f"batch_{number}",
            "object": "batch",
            "created_at": int(time.time()),
            "errors": None,
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            **wanted,
        }
        self.server.batches.append(Batch(made, requests, end))
        return made

    def _retrieve(self, body: bytes, parts: list[str], query: dict[str, str]) -> Body:
        batch = next(batch for batch in self.server.batches if batch.body["id"] == parts[2])
        batch.looks += 1
        answered, failed = len(batch.end.results), len(batch.end.errors)
        batch.body["request_counts"] = {
            "total": len(batch.requests),
            "completed": answered if batch.looks >= batch.end.looks else 0,
            "failed": failed if batch.looks >= batch.end.looks else 0,
        }
        batch.body["status"] = "in_progress"
        if batch.looks >= batch.end.looks:
            batch.body["status"] = batch.end.status
            batch.body["errors"] = {"object": "list", "data": batch.end.faults} if batch.end.faults else None
            for key, lines in (("output_file_id", batch.end.results), ("error_file_id", batch.end.errors)):
                if lines:
                    name = f"{batch.body['id']}_{key}"
                    self.server.files[name] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
                    batch.body[key] = name
        return batch.body

    def _list(self, body: bytes, parts: list[str], query: dict[str, str]) -> Body:
        bodies = [batch.body for batch in reversed(self.server.batches)]
        start = next((at + 1 for at, one in enumerate(bodies) if one["id"] == query.get("after")), 0)
        page = bodies[start : start + int(query.get("limit", 20))]
        return {"object": "list", "data": page, "has_more": start + len(page) < len(bodies)}

    def _content(self, body: bytes, parts: list[str], query: dict[str, str]) -> bytes:
        return self.server.files[parts[2]]
