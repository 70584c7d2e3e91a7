"""Samples replies from a policy, shard by shard, and checks them before anything uses them.

A finished shard is kept in a folder, so that a run after a kill samples the other shards only. A reply depends on its
request and seed, not on the shard it is in.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from drift_train.models.load import load_renderer
from drift_train.models.log_probs import CheckError
from drift_train.options import PolicySamplingOptions
from drift_train.rollout.engine import (
    Engine,
    EngineError,
    EngineReply,
    EngineStartError,
    SampleRequest,
    ShardReplies,
)
from drift_train.rollout.recheck import LogProbError, recheck_log_probs
from drift_train.rollout.shards import read_shard, write_shard

_FINISH_REASONS = ("stop", "length")  # any other reason means that the engine gave the reply up
_SHARDS_AHEAD = 1  # shards that are rendered and submitted while another one is sampled


@dataclass(frozen=True)
class SampledReply:
    """A request, the tokens and the text of its reply, and the name of the engine that sampled it."""

    request: SampleRequest
    reply: EngineReply
    text: str
    engine: str


@dataclass
class _Shard:
    """Requests that are sampled and kept together.

    Attributes:
        requests: the shard's requests; empty once the shard is finished, which frees their memory.
        path: file that keeps the replies.
        made_by: engine, precision and remarks once the shard is finished, without the replies.
        rechecked: (prompt tokens, reply) of the replies whose log-probabilities are computed again.
    """

    requests: Sequence[SampleRequest]
    path: Path
    made_by: ShardReplies | None = None
    rechecked: list[tuple[Sequence[int], EngineReply]] = field(default_factory=list)


class Sampler:
    """Samples replies to requests from one policy. Leaving its `with` block stops the engine.

    Args:
        policy: folder of the model.
        options: engine and sampling.
        keep: folder for the replies of finished shards. Shards that an earlier run with the same policy and options left
            there are taken, not sampled again.
        log_folder: folder of the engine's own log.
        title: names the log and the progress bar, e.g. "demo iter1 rollouts".

    Attributes:
        made_by: what the manifest says about engines and rechecks; complete once all replies have been taken.
    """

    def __init__(
        self, policy: Path, options: PolicySamplingOptions, keep: Path, log_folder: Path, title: str
    ) -> None:
        self._policy, self._options, self._keep = policy, options, keep
        self._log_folder, self._title = log_folder, title
        self._renderer = load_renderer(policy)
        self._engine: Engine | None = None
        self._fallback_remark: dict[str, Any] = {}
        self.made_by: dict[str, Any] = {"engine": None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            self._engine = None

    def sample(self, requests: Iterable[SampleRequest], total: int) -> Iterator[SampledReply]:
        """Yield each request with its reply, in order, and score a few replies of every shard again at the end.

        Args:
            requests: must have different keys. They are taken one shard ahead, so memory holds two shards.
            total: about how many requests there will be, for the progress bar.

        Raises:
            EngineStartError: the named engine does not start (`auto` takes transformers instead of vllm and says so).
            EngineError: the engine died, or gave a reply up before its end.
            CheckError: the engine's log-probabilities are not this policy's, or replies are missing.
        """
        shards: list[_Shard] = []
        waiting: deque[_Shard] = deque()
        with tqdm(total=total, desc=self._title, unit="reply", mininterval=0.5) as bar:
            for shard in self._cut_into_shards(requests):
                shards.append(shard)
                waiting.append(shard)
                if shard.path.is_file():
                    bar.update(len(shard.requests))
                else:
                    if self._engine is None:
                        self._engine = self._start_engine(bar)
                    self._engine.submit(shard.requests)
                if len(waiting) > _SHARDS_AHEAD:
                    yield from self._finish(waiting.popleft())
            while waiting:
                yield from self._finish(waiting.popleft())
        self._stop()  # the recheck wants the memory
        if shards:
            self.made_by = {**_describe_engines(shards), **self._recheck(shards)}

    def _cut_into_shards(self, requests: Iterable[SampleRequest]) -> Iterator[_Shard]:
        """Cut the requests into shards, whose files are named by a hash of their requests."""
        stream = iter(requests)
        for number in itertools.count():
            shard = list(itertools.islice(stream, self._options.shard))
            if not shard:
                return
            digest = hashlib.sha256()
            for request in shard:
                digest.update(f"{request.key} {request.seed} {list(request.prompt_ids)}\n".encode())
            yield _Shard(shard, self._keep / f"replies-{number:05d}-{digest.hexdigest()[:16]}.parquet")

    def _finish(self, shard: _Shard) -> Iterator[SampledReply]:
        """Yield a shard's replies: those that were kept, or else those that the engine gives, which are checked and kept."""
        if shard.path.is_file():
            answered = read_shard(shard.path)
        else:
            assert self._engine is not None
            engine = self._engine
            answered = ShardReplies(
                engine.collect(),
                engine.name,
                engine.precision,
                {**self._fallback_remark, **engine.remarks},
            )
            _check_complete(engine.name, shard.requests, answered.replies)
            write_shard(shard.path, answered)
        by_key = {reply.key: reply for reply in answered.replies}
        rows = [(r.prompt_ids, by_key[r.key]) for r in shard.requests if by_key[r.key].log_probs]
        shard.rechecked = rows[: self._options.recheck]
        shard.made_by = ShardReplies([], answered.engine, answered.precision, answered.remarks)
        requests, shard.requests = shard.requests, ()
        for request in requests:
            reply = by_key[request.key]
            yield SampledReply(request, reply, self._renderer.decode_reply(reply.token_ids), answered.engine)

    def _start_engine(self, bar: Any) -> Engine:
        """Start the engine that the options name. `auto` falls back to transformers, and a remark says why."""
        wanted = self._options.engine
        if wanted == "auto":
            try:
                return self._start_named("vllm", bar)
            except EngineStartError as error:
                self._fallback_remark = {"instead_of_vllm": str(error)}
                tqdm.write(f"{self._title}: {error}; sampling with transformers", file=sys.stderr)
                wanted = "transformers"
        return self._start_named(wanted, bar)

    def _start_named(self, name: str, bar: Any) -> Engine:
        bar.set_description(f"{self._title}: starting {name}")
        engine = self._make_engine(name, bar.update)
        try:
            engine.start()
        except BaseException:
            engine.stop()
            raise
        bar.set_description(self._title)
        bar.unpause()  # the rate is that of sampling
        return engine

    def _make_engine(self, name: str, progress: Callable[[int], Any]) -> Engine:
        policy, options, ends = self._policy, self._options, self._renderer.ends
        match name:
            case "vllm":
                if importlib.util.find_spec("vllm") is None:
                    raise EngineStartError("vllm is not installed")
                from drift_train.rollout.engines.vllm import VllmEngine

                return VllmEngine(policy, ends, options, self._log_folder, self._title, progress)
            case "server":
                from drift_train.rollout.engines.server import ServerEngine

                return ServerEngine(policy, self._renderer, options, progress)
            case _:
                from drift_train.rollout.engines.transformers import TransformersEngine

                return TransformersEngine(policy, ends, options, progress)

    def _recheck(self, shards: Sequence[_Shard]) -> dict[str, Any]:
        """Score some replies of every shard again; the shard of a refused reply is not kept.

        Every shard has its turn, because each may come from an engine that was started anew.

        Raises:
            LogProbError: a reply was not sampled from this policy.
        """
        if not self._options.recheck:
            print(
                f"{self._title}: recheck is 0, so it is not checked whether these replies come from {self._policy}",
                file=sys.stderr,
            )
        per_shard = math.ceil(self._options.recheck / len(shards))
        checked, worst = 0, 0.0
        kinds = {(s.made_by.engine, s.made_by.precision) for s in shards if s.made_by}
        for engine, precision in sorted(kinds):
            rows = [
                (shard, ids, reply)
                for shard in shards
                if shard.made_by and (shard.made_by.engine, shard.made_by.precision) == (engine, precision)
                for ids, reply in shard.rechecked[:per_shard]
            ]
            if not rows:
                continue
            try:
                found = recheck_log_probs(
                    self._policy, [(ids, r.token_ids, r.log_probs) for _, ids, r in rows], precision, engine
                )
            except LogProbError as error:
                for number in error.rows:
                    rows[number][0].path.unlink(missing_ok=True)
                raise
            checked, worst = checked + len(rows), max(worst, found)
        return {"rechecked_rows": checked, **({"largest_log_prob_difference": worst} if checked else {})}


def _describe_engines(shards: Sequence[_Shard]) -> dict[str, Any]:
    """Return what the manifest says about the engines: more than one when a run after a kill had to take another."""
    made = [shard.made_by for shard in shards if shard.made_by]
    remarks: dict[str, Any] = {}
    for each in made:
        remarks |= each.remarks
    return {
        "engine": " + ".join(dict.fromkeys(each.engine for each in made)),
        "precision": " + ".join(dict.fromkeys(each.precision for each in made)),
        **remarks,
    }


def _check_complete(engine: str, requests: Sequence[SampleRequest], replies: Sequence[EngineReply]) -> None:
    """Check that every request has a reply, and that every reply came to its end.

    Raises:
        CheckError: a reply is missing.
        EngineError: a reply was given up.
    """
    answered = {reply.key for reply in replies}
    if len(replies) != len(requests) or answered != {request.key for request in requests}:
        raise CheckError(f"The {engine} engine answered {len(answered)} of {len(requests)} requests.")
    for reply in replies:
        if reply.finish_reason not in _FINISH_REASONS:
            count = sum(other.finish_reason not in _FINISH_REASONS for other in replies)
            raise EngineError(
                f"The {engine} engine ended {count} of {len(replies)} replies with finish_reason "
                f"{reply.finish_reason!r}: they were not sampled to their end, and are not used. Run again; if it "
                "happens again, the engine's log says more."
            )
