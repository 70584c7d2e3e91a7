"""Samples from an OpenAI-compatible server, after a check that it serves this policy.

Each iteration has another policy, and a server keeps the one that it was started with. So the policy's name on the
server is made from its digest, and every request names it. vLLM's additions to the chat API return sampled and prompt
tokens; where a server lacks them, tokens are made from the text and prompts compared by their number of tokens, and the
manifest says so.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from drift_data.machine import MAX_SERVER_MESSAGE_CHARACTERS, hide_key
from drift_data.workspace import MANIFEST, Manifest, UserError, hash_folder
from drift_train.models.render import Renderer
from drift_train.options import PolicySamplingOptions, PolicyServerOptions
from drift_train.rollout.engine import EngineError, EngineReply, EngineStartError, SampleRequest
from drift_train.rollout.recheck import check_prompt_tokens

_KEY_VARIABLE = "OPENAI_API_KEY"
_CONNECT_SECONDS = 10.0  # how long to wait for a connection
# Arguments of vLLM's server, which other servers ignore. They switch the model's own sampling defaults off and have the
# server return token ids.
_VLLM_ARGUMENTS: dict[str, Any] = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "skip_special_tokens": False,
    "return_token_ids": True,
}


class ServerEngine:
    """Asks for chat completions with log-probabilities, several at once.

    Args:
        policy: folder of the model that the server should serve.
        renderer: the policy's renderer.
        options: sampling, and where the server is.
        progress: called with the number of replies that came.
    """

    name = "server"

    def __init__(
        self, policy: Path, renderer: Renderer, options: PolicySamplingOptions, progress: Callable[[int], Any]
    ) -> None:
        assert options.server is not None
        self._policy, self._renderer, self._options, self._progress = policy, renderer, options, progress
        self._server: PolicyServerOptions = options.server
        self._model = make_served_name(policy)
        self._key = os.environ.get(_KEY_VARIABLE, "").strip()
        self._waiting: deque[Sequence[SampleRequest]] = deque()
        self.precision: str = self._server.precision
        self.remarks: dict[str, Any] = {"served_model": self._model}

    def start(self) -> None:
        """Check that the server is there and serves the policy.

        Raises:
            EngineStartError: the server is not there, or serves another policy; the message holds the command that
                serves the right one.
        """
        asyncio.run(self._check_server())

    def submit(self, requests: Sequence[SampleRequest]) -> None:
        """Take a shard."""
        self._waiting.append(requests)

    def collect(self) -> list[EngineReply]:
        """Ask the server for the replies to the oldest shard."""
        return asyncio.run(self._ask_all(self._waiting.popleft()))

    def stop(self) -> None:
        """Do nothing: the server is not ours to stop."""

    def _make_client(self) -> Any:
        from openai import AsyncOpenAI, Timeout

        timeout = Timeout(self._server.timeout, connect=min(_CONNECT_SECONDS, self._server.timeout))
        return AsyncOpenAI(
            api_key=self._key or "none",
            base_url=self._server.base_url,
            timeout=timeout,
            max_retries=self._server.retries,
        )

    async def _check_server(self) -> None:
        import openai

        try:
            async with self._make_client() as client:
                served = (await client.models.list()).data
        except openai.OpenAIError as error:
            # Not chained: the error holds the headers, which hold the key.
            raise EngineStartError(self._explain(error)) from None
        card = next((card for card in served if card.id == self._model), None)
        if card is None:
            names = ", ".join(card.id for card in served) or "nothing"
            raise EngineStartError(
                f"The server at {self._host} serves {names}, not {self._describe_wanted()}"
            )
        root = getattr(card, "root", None)  # vLLM: the folder it was started with
        if isinstance(root, str) and Path(root).is_dir() and not Path(root).samefile(self._policy):
            raise EngineStartError(
                f"The server at {self._host} serves {root} by the name of {self._model}, not {self._describe_wanted()}"
            )
        room, need = (
            getattr(card, "max_model_len", None),
            self._options.max_prompt_tokens + self._options.max_new_tokens,
        )
        if isinstance(room, int) and room < need:
            raise EngineStartError(
                f"The server at {self._host} has room for {room} tokens, but rollout.max_prompt_tokens and "
                f"max_new_tokens together are {need}. Start it with --max-model-len {need}."
            )

    async def _ask_all(self, requests: Sequence[SampleRequest]) -> list[EngineReply]:
        places = asyncio.Semaphore(self._server.concurrency)
        async with self._make_client() as client:

            async def ask(request: SampleRequest) -> EngineReply:
                async with places:
                    reply = await self._ask(client, request)
                self._progress(1)
                return reply

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(ask(request)) for request in requests]
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask(self, client: Any, request: SampleRequest) -> EngineReply:
        import openai

        try:
            answer = await client.chat.completions.create(
                model=self._model,
                messages=[{"role": m["role"], "content": m["content"]} for m in request.messages],
                temperature=self._options.temperature,
                top_p=self._options.top_p,
                max_tokens=self._options.max_new_tokens,
                seed=request.seed,
                logprobs=True,
                extra_body={**_VLLM_ARGUMENTS, "stop_token_ids": self._renderer.ends},
            )
        except openai.OpenAIError as error:
            raise EngineError(f"{self._explain(error)} The shards that were finished are kept.") from None
        return self._read_reply(request, answer)

    def _read_reply(self, request: SampleRequest, answer: Any) -> EngineReply:
        """Return the tokens and log-probabilities of a server's answer.

        Raises:
            EngineError: the answer holds no completion, or lacks what the recheck needs.
            CheckError: the server renders the prompt to other tokens than our renderer does.
        """
        if not answer.choices:
            raise EngineError(f"The server at {self._host} sent no completion for a request.")
        choice = answer.choices[0]
        self._check_prompt(request, answer)
        content = (choice.logprobs and choice.logprobs.content) or []
        log_probs = [float(step.logprob) for step in content]
        tokens = getattr(choice, "token_ids", None)
        if tokens is None:
            self.remarks["tokens"] = "of the text, as the server does not return those it sampled"
            tokens = list(
                self._renderer.tokenizer(choice.message.content or "", add_special_tokens=False).input_ids
            )
            if choice.finish_reason == "stop":
                tokens.append(self._renderer.tokenizer.eos_token_id)
            whole = len(tokens) - (choice.finish_reason == "stop")
            if self._options.recheck and log_probs and len(log_probs) not in (len(tokens), whole):
                raise EngineError(
                    f"The server at {self._host} returns no token ids, and log-probabilities of {len(log_probs)} tokens "
                    f"for a text that is {len(tokens)} tokens to the policy's tokenizer, so they cannot be compared. "
                    + self._advise_vllm()
                )
        elif log_probs and len(log_probs) != len(tokens):
            raise EngineError(
                f"The server at {self._host} returns {len(tokens)} token ids with {len(log_probs)} log-probabilities."
            )
        if self._options.recheck and tokens and not log_probs:
            raise EngineError(
                f"The server at {self._host} returns no log-probabilities (choices[].logprobs.content), so it "
                f"cannot be checked whether it serves {self._policy}. " + self._advise_vllm()
            )
        return EngineReply(request.key, list(tokens), str(choice.finish_reason), log_probs)

    def _check_prompt(self, request: SampleRequest, answer: Any) -> None:
        """Compare the prompt's tokens with ours, or only their number where the server does not return them."""
        prompt_ids = getattr(answer, "prompt_token_ids", None)
        if prompt_ids is not None:
            check_prompt_tokens(self.name, request.prompt_ids, prompt_ids)
        elif answer.usage is not None:
            self.remarks["prompt_tokens"] = "compared by their number"
            if answer.usage.prompt_tokens != len(request.prompt_ids):
                check_prompt_tokens(self.name, request.prompt_ids, [-1] * answer.usage.prompt_tokens)
        else:
            self.remarks["prompt_tokens"] = "not compared"

    @property
    def _host(self) -> str:
        return urlsplit(self._server.base_url).netloc

    def _describe_wanted(self) -> str:
        return (
            f"{self._policy} by the name of {self._model}. An iteration needs a server of its own policy: end the one "
            f"that runs, start this one, and run again:\n  {self._serve_command()}"
        )

    def _advise_vllm(self) -> str:
        return (
            f"vLLM's server does what is needed: {self._serve_command()}. Or set rollout.recheck=0; then it is not "
            "checked whether the replies come from this policy."
        )

    def _serve_command(self) -> str:
        need = self._options.max_prompt_tokens + self._options.max_new_tokens
        port = urlsplit(self._server.base_url).port
        return (
            f"python -m vllm.entrypoints.openai.api_server --model {self._policy.resolve()} "
            f"--served-model-name {self._model} --generation-config vllm --max-model-len {need} "
            f"--dtype {self.precision}" + (f" --port {port}" if port else "")
        )

    def _explain(self, error: Exception) -> str:
        """Return what a failed request means. No text holds the key."""
        import httpx2
        import openai

        match error:
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                # The server's words are not shown: some servers repeat parts of the key.
                return (
                    f"The server at {self._host} refuses the key: set ${_KEY_VARIABLE} to one that it takes."
                )
            case openai.APITimeoutError() if not isinstance(error.__cause__, httpx2.ConnectTimeout):
                return (
                    f"The server at {self._host} did not answer within {self._server.timeout:g} s. Raise "
                    "rollout.server.timeout, or lower rollout.server.concurrency."
                )
            case openai.APIConnectionError():
                return f"No server answers at {self._host}. Start one, then run again:\n  {self._serve_command()}\n"
            case openai.NotFoundError():
                return (
                    f"The server at {self._host} has no {self._model} (any more). It should serve "
                    f"{self._describe_wanted()}\n"
                )
            case openai.APIStatusError():
                words = hide_key(" ".join(str(error.message).split()), self._key)[
                    :MAX_SERVER_MESSAGE_CHARACTERS
                ]
                return f"The server at {self._host} answers {error.status_code}: {words}."
            case _:
                return (
                    f"The server at {self._host} sent something else than an answer: {type(error).__name__}."
                )


def make_served_name(policy: Path) -> str:
    """Return the name that a policy is served by, which changes with its weights.

    Raises:
        UserError: the manifest in the folder cannot be read.
    """
    path = policy / MANIFEST
    if not path.is_file():
        return f"policy-{hash_folder(policy)[:12]}"
    try:
        return f"policy-{Manifest.model_validate_json(path.read_bytes()).digest[:12]}"
    except ValueError as error:
        raise UserError(f"{path} is not a manifest of this version of the tool: {error}") from error
