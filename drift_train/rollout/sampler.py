"""Samples replies from a policy, shard by shard, and checks what came back before anyone uses it.

A finished shard is kept in a folder, so that a run after a kill samples the others only. A reply depends on its
request and seed, not on the shard it is in. Knows engines, rendering and log-probabilities; nothing about
feedback, pairs or tables.
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
from drift_train.rollout.engine import Engine, EngineError, EngineStartError, Reply, Request, ShardReplies
from drift_train.rollout.recheck import LogProbError, recheck_log_probs
from drift_train.rollout.shards import read_shard, write_shard

_FINISHED = ("stop", "length")  # any other finish_reason is a reply that the engine did not bring to its end
_AHEAD = 1  # shards that are rendered while another is sampled


@dataclass(frozen=True)
class Sampled:
    """A request, its reply, the reply's text and the engine that it came from."""

    request: Request
    reply: Reply
    text: str
    engine: str


@dataclass
class _Shard:
    requests: Sequence[Request]
    path: Path  # where its replies are kept
    made: ShardReplies | None = None  # once it is finished, without the replies
    rechecked: list[tuple[Sequence[int], Reply]] = field(default_factory=list)


class Sampler:
    """Samples requests from one policy; a context, which ends the engine.

    Args:
        policy: folder of the model.
        options: engine and sampling.
        keep: folder for the replies of finished shards. What an earlier run with the same policy and options left
            there is taken, not sampled again.
        log_folder: where an engine's own log goes.
        title: names the log and the progress bar, e.g. "demo iter1 rollouts".

    Attributes:
        made_by: for the manifest; complete once all replies have been taken.
    """

    def __init__(
        self, policy: Path, options: PolicySamplingOptions, keep: Path, log_folder: Path, title: str
    ) -> None:
        self._policy, self._options, self._keep = policy, options, keep
        self._log_folder, self._title = log_folder, title
        self._renderer = load_renderer(policy)
        self._engine: Engine | None = None
        self._remark: dict[str, Any] = {}
        self.made_by: dict[str, Any] = {"engine": None}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._engine is not None:
            self._engine.stop()
            self._engine = None

    def sample(self, requests: Iterable[Request], total: int) -> Iterator[Sampled]:
        """Yield each request with its reply, in order, and score a few replies of every shard again at the end.

        Args:
            requests: keys must differ. They are taken a shard ahead; memory holds two shards.
            total: about how many there will be, for the progress bar.

        Raises:
            EngineStartError: the named engine does not start (`auto` takes the other one and says so).
            EngineError: it died, or brought a reply to no end.
            CheckError: the engine's log-probabilities are not this policy's, or replies are missing.
        """
        shards: list[_Shard] = []
        waiting: deque[_Shard] = deque()
        with tqdm(total=total, desc=self._title, unit="reply", mininterval=0.5) as bar:
            for shard in self._shards(requests):
                shards.append(shard)
                waiting.append(shard)
                if shard.path.is_file():
                    bar.update(len(shard.requests))
                else:
                    if self._engine is None:
                        self._engine = self._start(bar)
                    self._engine.submit(shard.requests)
                if len(waiting) > _AHEAD:
                    yield from self._finish(waiting.popleft())
            while waiting:
                yield from self._finish(waiting.popleft())
        self._stop()  # the recheck wants the memory
        if shards:
            self.made_by = {**_described(shards), **self._recheck(shards)}

    def _shards(self, requests: Iterable[Request]) -> Iterator[_Shard]:
        """Cut the requests into shards, whose files are named by what is asked in them."""
        stream = iter(requests)
        for number in itertools.count():
            shard = list(itertools.islice(stream, self._options.shard))
            if not shard:
                return
            digest = hashlib.sha256()
            for request in shard:
                digest.update(f"{request.key} {request.seed} {list(request.prompt_ids)}\n".encode())
            yield _Shard(shard, self._keep / f"replies-{number:05d}-{digest.hexdigest()[:16]}.parquet")

    def _finish(self, shard: _Shard) -> Iterator[Sampled]:
        """Yield a shard's replies: those that were kept, or the engine's, which are checked and kept."""
        if shard.path.is_file():
            made = read_shard(shard.path)
        else:
            assert self._engine is not None
            engine = self._engine
            made = ShardReplies(
                engine.collect(),
                engine.name,
                engine.precision,
                {**self._remark, **engine.remarks},
            )
            _check_complete(engine.name, shard.requests, made.replies)
            write_shard(shard.path, made)
        by_key = {reply.key: reply for reply in made.replies}
        rows = [(r.prompt_ids, by_key[r.key]) for r in shard.requests if by_key[r.key].log_probs]
        shard.rechecked = rows[: self._options.recheck]
        shard.made = ShardReplies([], made.engine, made.precision, made.remarks)
        requests, shard.requests = shard.requests, ()
        for request in requests:
            reply = by_key[request.key]
            yield Sampled(request, reply, self._renderer.text(reply.token_ids), made.engine)

    def _start(self, bar: Any) -> Engine:
        """Start the engine that the options name; `auto` falls back, with the reason as a remark."""
        wanted = self._options.engine
        if wanted == "auto":
            try:
                return self._started("vllm", bar)
            except EngineStartError as error:
                self._remark = {"instead_of_vllm": str(error)}
                tqdm.write(f"{self._title}: {error}; sampling with transformers", file=sys.stderr)
                wanted = "transformers"
        return self._started(wanted, bar)

    def _started(self, name: str, bar: Any) -> Engine:
        bar.set_description(f"{self._title}: starting {name}")
        engine = self._make(name, bar.update)
        try:
            engine.start()
        except BaseException:
            engine.stop()
            raise
        bar.set_description(self._title)
        bar.unpause()  # the rate is that of sampling
        return engine

    def _make(self, name: str, progress: Callable[[int], Any]) -> Engine:
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
        """Score some replies of every shard again; one that is refused is not kept.

        Every shard, as each may come from an engine that was started anew.
        """
        if not self._options.recheck:
            print(
                f"{self._title}: recheck is 0, so nobody has looked whether these replies come from {self._policy}",
                file=sys.stderr,
            )
        each = math.ceil(self._options.recheck / len(shards))
        checked, worst = 0, 0.0
        kinds = {(s.made.engine, s.made.precision) for s in shards if s.made}
        for engine, precision in sorted(kinds):
            rows = [
                (shard, ids, reply)
                for shard in shards
                if shard.made and (shard.made.engine, shard.made.precision) == (engine, precision)
                for ids, reply in shard.rechecked[:each]
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


def _described(shards: Sequence[_Shard]) -> dict[str, Any]:
    """Say which engines made the shards; more than one when a run after a kill had to take another."""
    made = [shard.made for shard in shards if shard.made]
    remarks: dict[str, Any] = {}
    for each in made:
        remarks |= each.remarks
    return {
        "engine": " + ".join(dict.fromkeys(each.engine for each in made)),
        "precision": " + ".join(dict.fromkeys(each.precision for each in made)),
        **remarks,
    }


def _check_complete(engine: str, requests: Sequence[Request], replies: Sequence[Reply]) -> None:
    """Raise when a request has no reply, or one that did not come to its end."""
    answered = {reply.key for reply in replies}
    if len(replies) != len(requests) or answered != {request.key for request in requests}:
        raise CheckError(f"The {engine} engine answered {len(answered)} of {len(requests)} requests.")
    for reply in replies:
        if reply.finish_reason not in _FINISHED:
            count = sum(other.finish_reason not in _FINISHED for other in replies)
            raise EngineError(
                f"The {engine} engine ended {count} of {len(replies)} replies with finish_reason "
                f"{reply.finish_reason!r}: they were not sampled to their end, and are not used. Run again; if it "
                "happens again, its log says more."
            )
