"""An OpenAI-compatible server of a policy for tests: real HTTP on loopback, real replies, and faulty when told to be.

    with PolicyServer(policy, "name") as server:
        … server.base_url, server.bodies

It answers `/v1/models` and `/v1/chat/completions` as vLLM does, with token ids and log-probabilities.
`server.change(path, answer)` edits an answer before it is sent, or returns (status, body).
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from drift_train.models.load import load_renderer
from drift_train.options import PolicySamplingOptions
from drift_train.rollout.engine import SampleRequest
from drift_train.rollout.engines.transformers import TransformersEngine

Body = dict[str, Any]
Change = Callable[[str, Body], Body | tuple[int, Body]]


class PolicyServer:
    """The server and what it has been asked.

    Args:
        policy: folder of the model.
        name: it is served by.
        key: the API key that it wants; None: it asks for none.
    """

    def __init__(self, policy: Path, name: str, key: str | None = None) -> None:
        self.policy, self.name, self.key = policy, name, key
        self.bodies: list[Body] = []  # of chat completions, in the order they came
        self.at_once = self.most_at_once = 0
        self.delay = 0.0
        self.change: Change = lambda path, answer: answer
        self._renderer, self._lock = load_renderer(policy), threading.Lock()
        self._engine = TransformersEngine(
            policy, self._renderer.ends, PolicySamplingOptions(engine="transformers"), lambda _: None
        )
        self._engine.start()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.send(self, {"object": "list", "data": [server.card()]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.bodies.append(body)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                time.sleep(server.delay)
                with server._lock:
                    server.at_once -= 1
                    answer = server.completion(body)
                server.send(self, answer)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def card(self) -> Body:
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "test",
            "root": str(self.policy),
            "max_model_len": 512,
        }

    def completion(self, body: Body) -> Body:
        """Sample one reply with plain transformers, in vLLM's words."""
        prompt_ids = self._renderer.render_prompt(body["messages"])
        options = PolicySamplingOptions(
            engine="transformers",
            temperature=body["temperature"],
            top_p=body["top_p"],
            max_new_tokens=body["max_tokens"],
        )
        self._engine._options = options
        self._engine.submit([SampleRequest(0, body["messages"], prompt_ids, body["seed"])])
        (reply,) = self._engine.collect()
        text = self._renderer.decode_reply(reply.token_ids)
        steps = [
            {"token": self._renderer.tokenizer.decode([t]), "logprob": p, "bytes": None, "top_logprobs": []}
            for t, p in zip(reply.token_ids, reply.log_probs, strict=True)
        ]
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": reply.finish_reason,
                    "logprobs": {"content": steps},
                    "token_ids": reply.token_ids,
                }
            ],
            "prompt_token_ids": prompt_ids,
            "usage": {
                "prompt_tokens": len(prompt_ids),
                "completion_tokens": len(reply.token_ids),
                "total_tokens": len(prompt_ids) + len(reply.token_ids),
            },
        }

    def send(self, handler: BaseHTTPRequestHandler, answer: Body) -> None:
        status = 200
        if self.key is not None and handler.headers["Authorization"] != f"Bearer {self.key}":
            got = handler.headers["Authorization"]
            status, answer = 401, {"error": {"message": f"Incorrect API key provided: {got}"}}
        else:
            changed = self.change(handler.path, answer)
            status, answer = changed if isinstance(changed, tuple) else (200, changed)
        content = json.dumps(answer).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # nobody waits any more
            self._write(handler, status, content)

    def _write(self, handler: BaseHTTPRequestHandler, status: int, content: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
