"""Answers requests by vLLM in this process, in rounds and without a server.

This is the only module of `drift_data` that loads vllm. The engine starts with the first request that the store has no
answer to, so a finished run starts none.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from drift_data.llm.backend import AnyTask, feed_from_store
from drift_data.llm.cost import Spending
from drift_data.llm.options import VllmOptions
from drift_data.llm.request import LENGTH, STOP, Answer, Request
from drift_data.llm.store import Store
from drift_data.machine import prepare_vllm_for_cpu
from drift_data.workspace import UserError


class VllmBackend:
    """A `Backend` on `vllm.LLM`.

    Args:
        store: keeps the answers.
        spending: counts tokens and money.
        options: how the engine runs.
    """

    kind = "vllm"

    def __init__(self, store: Store, spending: Spending, options: VllmOptions) -> None:
        self._store, self._spending, self._options = store, spending, options
        self._engine: Any = None

    def run(self, tasks: Iterable[AnyTask]) -> Iterator[AnyTask]:
        """Drive tasks round by round; the next request of a task joins the next round."""
        source, has_more, unfinished = iter(tasks), True, list[AnyTask]()
        while has_more or unfinished:
            while has_more and len(unfinished) < self._options.round:
                task = next(source, None)
                if task is None:
                    has_more = False
                elif feed_from_store(task, self._store, self._spending):
                    yield task
                else:
                    unfinished.append(task)
            answers = self._ask({r.key: r for task in unfinished if (r := task.request) is not None})
            open_tasks = []
            for task in unfinished:
                assert task.request is not None  # a task without a request is finished
                if task.request.key not in answers:
                    # The budget has no room for the request until the price of this round is known.
                    open_tasks.append(task)
                    continue
                task.receive(answers[task.request.key])
                if feed_from_store(task, self._store, self._spending):
                    yield task
                else:
                    open_tasks.append(task)
            unfinished = open_tasks

    def _ask(self, requests: Mapping[str, Request]) -> dict[str, Answer]:
        """Ask the engine and return the answers by key; each is in the store before the next round begins.

        A request for which the budget has no room until others are paid is left out.
        """
        answers: dict[str, Answer] = {}
        asked: list[tuple[Request, list[int]]] = []
        for key, request in requests.items():
            prompt, room = self._tokenize(request), self._options.max_model_len - request.sampling.max_tokens
            if len(prompt) > room:
                detail = f"{len(prompt)} tokens, where max_model_len leaves room for {room}"
                answers[key] = Answer(error="prompt_too_long", detail=detail)
                self._spending.record(request, answers[key])
            elif self._spending.reserve(request):
                asked.append((request, prompt))
            elif not asked:  # no money is set aside for other requests of the round, so none can come free
                answers[key] = Answer(error="over_budget")
                self._spending.over_budget += 1
        started = time.monotonic()
        for (request, prompt), output in zip(asked, self._generate(asked), strict=True):
            reply = output.outputs[0]
            finish = {"stop": STOP, "length": LENGTH}.get(reply.finish_reason, str(reply.finish_reason))
            answer = Answer(
                text=reply.text,
                finish_reason=finish,
                input_tokens=len(prompt),
                cached_tokens=output.num_cached_tokens or 0,
                output_tokens=len(reply.token_ids),
            )
            answer = replace(answer, price=self._spending.price_of(answer))
            seconds = time.monotonic() - started  # the time that the whole round took
            self._store.put(request, answer, backend=self.kind, seconds=seconds)
            self._spending.record(request, answer)
            answers[request.key] = answer
        return answers

    def _tokenize(self, request: Request) -> list[int]:
        """Return the tokens of a prompt, rendered by the model's chat template."""
        options = request.sampling.extra.get("chat_template_kwargs", {})
        tokens: list[int] = (
            self._load_engine(request)
            .get_tokenizer()
            .apply_chat_template(request.messages, add_generation_prompt=True, return_dict=False, **options)
        )
        return tokens

    def _generate(self, asked: Sequence[tuple[Request, list[int]]]) -> Sequence[Any]:
        """Return vLLM's output for each request, in order. The list holds requests with their prompt's tokens."""
        if not asked:
            return ()
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        parameters = []
        for request, _ in asked:
            sampling = request.sampling
            schema = request.schema and StructuredOutputsParams(json=dict(request.schema.schema))
            more = {name: value for name, value in sampling.extra.items() if name != "chat_template_kwargs"}
            parameters.append(
                SamplingParams(
                    temperature=1.0 if sampling.temperature is None else sampling.temperature,
                    max_tokens=sampling.max_tokens,
                    seed=sampling.seed,
                    structured_outputs=schema,
                    **more,
                )
            )
        bar = functools.partial(tqdm, file=sys.stderr, desc="vllm", mininterval=0.5, leave=False)
        prompts = [{"prompt_token_ids": prompt} for _, prompt in asked]
        outputs: Sequence[Any] = self._engine.generate(prompts, parameters, use_tqdm=bar)
        return outputs

    def _load_engine(self, request: Request) -> Any:
        """Return the engine; the first call starts it."""
        if self._engine is None:
            self._engine = _start_engine(request.sampling.model, self._options)
        return self._engine

    def report(self) -> Mapping[str, Any]:
        """Return requests, tokens and price."""
        return self._spending.report()

    def close(self) -> None:
        """Let go of the engine. Its memory is free when the process ends."""
        self._engine = None


def _start_engine(model: str, options: VllmOptions) -> Any:
    """Start `vllm.LLM`.

    Raises:
        UserError: vllm is not installed, or cannot load the model.
    """
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise UserError(
            f"JUDGE=vllm needs vllm, which is not installed here ({error}). Serve the model elsewhere and use "
            "JUDGE=openai BASE_URL=…"
        ) from error
    settings: dict[str, Any] = {
        "model": model,
        "seed": 0,
        "generation_config": "vllm",  # ignore the sampling defaults that the model brings
        "enable_prefix_caching": True,  # all requests begin with the same system message
        "max_model_len": options.max_model_len,
        "disable_log_stats": True,
        # Compact JSON: where white space is allowed, a small model can write nothing else until it is cut off.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if current_platform.is_cpu():
        settings |= prepare_vllm_for_cpu(options.max_model_len)
    try:
        return LLM(**(settings | options.engine))
    except (OSError, ValueError) as error:
        raise UserError(
            f"vllm cannot load {model}: {str(error)[:500]}. MODEL must be a folder or Hub id of a chat model; "
            "settings of the engine are in label.vllm."
        ) from error
