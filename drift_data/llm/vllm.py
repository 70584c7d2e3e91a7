"""vLLM in this process: answers requests in rounds, without a server. The only place where drift_data loads vllm.

The engine starts with the first request that the store has no answer to; a finished run starts none.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from drift_data.llm.backend import T, feed_from_store
from drift_data.llm.cost import Meter
from drift_data.llm.request import LENGTH, STOP, Answer, Request
from drift_data.llm.store import Store
from drift_data.machine import vllm_cpu_settings
from drift_data.workspace import UserError


class VllmOptions(BaseModel):
    """How the engine runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_model_len: int = Field(16_384, gt=0, description="tokens of prompt and answer")
    round: int = Field(512, gt=0, description="requests given to the engine at a time: what a kill repeats")
    engine: dict[str, Any] = Field({}, description="more settings of vllm.LLM, such as tensor_parallel_size")


class InProcess:
    """A `Backend` on `vllm.LLM`."""

    kind = "vllm"

    def __init__(self, store: Store, meter: Meter, options: VllmOptions) -> None:
        self._store, self._meter, self._options = store, meter, options
        self._engine: Any = None

    def run(self, tasks: Iterable[T]) -> Iterator[T]:
        """Drive tasks round by round; follow-up requests join the next round."""
        source, more, going = iter(tasks), True, list[T]()
        while more or going:
            while more and len(going) < self._options.round:
                task = next(source, None)
                if task is None:
                    more = False
                elif feed_from_store(task, self._store, self._meter):
                    yield task
                else:
                    going.append(task)
            answers = self._answers({r.key: r for task in going if (r := task.request) is not None})
            open_tasks = []
            for task in going:
                assert task.request is not None  # only such tasks are going
                if task.request.key not in answers:  # its turn comes when it is known what the others cost
                    open_tasks.append(task)
                    continue
                task.receive(answers[task.request.key])
                if feed_from_store(task, self._store, self._meter):
                    yield task
                else:
                    open_tasks.append(task)
            going = open_tasks

    def _answers(self, requests: Mapping[str, Request]) -> dict[str, Answer]:
        """Ask the engine; each answer is in the store before the next round begins.

        A request that the budget has no room for until others are paid has no answer yet.
        """
        answers: dict[str, Answer] = {}
        asked: list[tuple[Request, list[int]]] = []
        for key, request in requests.items():
            prompt, room = self._prompt(request), self._options.max_model_len - request.sampling.max_tokens
            if len(prompt) > room:
                detail = f"{len(prompt)} tokens, where max_model_len leaves room for {room}"
                answers[key] = Answer(error="prompt_too_long", detail=detail)
                self._meter.settle(request, answers[key])
            elif self._meter.reserve(request):
                asked.append((request, prompt))
            elif not asked:  # nothing is under way that may come cheaper than it could
                answers[key] = Answer(error="over_budget")
                self._meter.over_budget += 1
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
            answer = replace(answer, price=self._meter.priced(answer))
            seconds = time.monotonic() - started  # of the whole round
            self._store.put(request, answer, backend=self.kind, seconds=seconds)
            self._meter.settle(request, answer)
            answers[request.key] = answer
        return answers

    def _prompt(self, request: Request) -> list[int]:
        """Return the prompt's tokens, by the model's chat template."""
        options = request.sampling.extra.get("chat_template_kwargs", {})
        tokens: list[int] = (
            self._loaded(request)
            .get_tokenizer()
            .apply_chat_template(request.messages, add_generation_prompt=True, return_dict=False, **options)
        )
        return tokens

    def _generate(self, asked: Sequence[tuple[Request, list[int]]]) -> Sequence[Any]:
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

    def _loaded(self, request: Request) -> Any:
        """Return the engine, started at the first call."""
        if self._engine is None:
            self._engine = _start(request.sampling.model, self._options)
        return self._engine

    def report(self) -> Mapping[str, Any]:
        """Return requests, tokens and price."""
        return self._meter.report()

    def close(self) -> None:
        """Forget the engine; its memory is free when the process ends."""
        self._engine = None


def _start(model: str, options: VllmOptions) -> Any:
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
        "generation_config": "vllm",  # not the model's own sampling defaults
        "enable_prefix_caching": True,  # all requests begin alike
        "max_model_len": options.max_model_len,
        "disable_log_stats": True,
        # Compact JSON: a small model can go on with white space until it is cut off.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    }
    if current_platform.is_cpu():
        settings |= vllm_cpu_settings(options.max_model_len)
    try:
        return LLM(**(settings | options.engine))
    except (OSError, ValueError) as error:
        raise UserError(
            f"vllm cannot load {model}: {str(error)[:500]}. MODEL must be a folder or Hub id of a chat model; "
            "settings of the engine are in label.vllm."
        ) from error
