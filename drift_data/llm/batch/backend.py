"""The Batch API as a backend: requests go out as files, answers come back as files, joined by `custom_id`.

It works in rounds. A pass over the tasks feeds each from the store and from the results at hand; what is still
asked goes into the request files of a new round, and the tasks are forgotten, so memory stays flat. Once the
round has its results, the caller makes the same tasks again (`in_rounds`). Tasks are yielded by the first pass
that leaves none unfinished.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from drift_data.llm.backend import Needed, T, Task
from drift_data.llm.batch.api import BatchAPI, Sender, Sent
from drift_data.llm.batch.files import RequestWriter, keys, rounds
from drift_data.llm.batch.progress import ASKED, COUNTED, FAILED, OVER_BUDGET, Ledger
from drift_data.llm.batch.results import Failure, result_files
from drift_data.llm.batch.rounds import (
    FOLLOW_UP,
    MISSING,
    AnotherRound,
    AwaitingResults,
    counted,
    findings,
    nothing_answered,
)
from drift_data.llm.cost import Meter
from drift_data.llm.request import Answer, Request
from drift_data.llm.server import ServerOptions
from drift_data.llm.store import Store
from drift_data.workspace import UserError

KIND: Final = "batch"


class BatchOptions(BaseModel):
    """How large request files may be, who sends them, and when to stop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offline: bool = False  # only write files; somebody else sends them
    results: tuple[str, ...] = ()  # result and error files, folders or globs to read answers from
    final: bool = False  # ask nothing more but what is needed: what has no answer stays without
    requests_per_file: int = Field(50_000, gt=0)  # the API's limits
    bytes_per_file: int = Field(200_000_000, gt=0)
    enqueued_tokens: int | None = Field(None, gt=0)  # of prompts at the API at once: the account's limit
    tries: int = Field(3, gt=0)  # of a request that fails by itself
    poll_seconds: float = Field(60.0, gt=0)  # longest time between two looks at the API
    patience_hours: float = Field(24.0, ge=0)  # for a queue that is full though nothing of ours is in it


@dataclass
class _Pass:
    """What one pass over the tasks has come to."""

    number: int
    held: float  # the most that what is at the API and in the new files can cost
    unfinished: int = 0  # tasks
    news: int = 0  # answers that no earlier pass has counted
    wanted: set[int] = field(default_factory=set)  # files under way that tasks wait for
    put_off: int = 0  # requests that the budget has no room for until others have come back


class BatchFiles:
    """Asks by files in the format of the Batch API.

    Args:
        store: keeps the answers.
        meter: counts tokens and money; it is set to batch prices.
        folder: of all rounds.
        server: speaks the Batch API; not used offline.
        options: see there.
    """

    kind = KIND

    def __init__(
        self, store: Store, meter: Meter, folder: Path, server: ServerOptions, options: BatchOptions
    ) -> None:
        self._store, self._meter, self._options = store, meter, options
        self._folder, self._server = folder, server
        meter.batch = True
        self._ledger: Ledger | None = None
        self._read, self._said = set[Path](), set[str]()
        self._passes = self._rounds = 0
        self._queued: Counter[str] = Counter()  # why requests are in the last files
        self._under_way: list[Sent] = []
        self._api: BatchAPI | None = None

    def run(self, tasks: Iterable[T]) -> Iterator[T]:
        """Yield tasks when all of them can be finished; else see that their answers come.

        Raises:
            AwaitingResults: offline, and files were written.
            AnotherRound: run the same tasks again, see `in_rounds`.
            UserError: the API refuses, or no request was answered.
        """
        ledger = self._begin()
        self._passes += 1
        at = _Pass(self._passes, sum(sent.file.most for sent in self._under_way))
        self._queued.clear()
        options = self._options
        writer = RequestWriter(
            self._folder, options.requests_per_file, options.bytes_per_file, options.enqueued_tokens
        )
        try:
            for task in tasks:
                if not self._advance(task, ledger, writer, at):
                    at.unfinished += 1
                elif not at.unfinished:
                    yield task
            for line in findings(ledger):
                self._say(line)
            if not at.unfinished:
                self._close_rounds()
                return
            if at.news and self._meter.budget is not None:
                raise AnotherRound  # now that everything spent is known, the budget can be kept
            self._ask(writer, ledger, at)
        finally:
            writer.discard()

    def report(self) -> Mapping[str, Any]:
        """Return requests, tokens and price, and what the result files held."""
        ledger = self._ledger
        if ledger is None:
            return {**self._meter.report(), "batch": {"rounds": 0}}
        return {
            **self._meter.report(),
            "batch": {
                "rounds": self._rounds,
                "result_lines": ledger.lines,
                "doubled": ledger.doubled,
                "malformed": ledger.malformed,
                "unknown": ledger.unknown(),
                "failed": dict(ledger.reasons.most_common()),
            },
        }

    def close(self) -> None:
        """Close connections and remove scratch files; request and result files stay."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None
        if self._api is not None:
            self._api.close()
            self._api = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # what is there before the tasks are looked at

    def _begin(self) -> Ledger:
        """Take in results that are at hand, and learn what is at the API."""
        options = self._options
        if self._ledger is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._ledger = Ledger(self._folder)
            self._ledger.read(result_files(options.results))
            hopeless = self._ledger.hopeless and not self._ledger.answers
            if hopeless and not options.final and not self._store.count():
                raise UserError(nothing_answered(self._ledger, ", ".join(options.results)))
        open_rounds = [one for one in rounds(self._folder) if not one.state.closed]
        sent = [Sent(one, file) for one in open_rounds for file in one.state.files]
        self._under_way = [one for one in sent if one.file.status in ("submitting", "submitted")]
        for one in self._under_way:
            if one.file.status == "submitting" and not options.offline:
                self._connected().find(one)
        self._under_way = [one for one in self._under_way if one.file.status != "written"]
        new = [path for one in open_rounds for path in one.results() if path not in self._read]
        self._ledger.read(new)
        self._read.update(new)
        self._ledger.clear_under_way()
        for number, one in enumerate(self._under_way):
            self._ledger.put_under_way(keys(one.path), number)
        return self._ledger

    def _connected(self) -> BatchAPI:
        if self._api is None:
            try:
                self._api = BatchAPI(self._server)
            except UserError as error:
                raise UserError(f"{error} To have files answered by others instead: OFFLINE=1.") from error
        return self._api

    # one task

    def _advance(self, task: Task, ledger: Ledger, writer: RequestWriter, at: _Pass) -> bool:
        """Give a task the answers there are, and queue what it asks beyond them; say whether it is finished."""
        follows, final = False, self._options.final and not isinstance(task, Needed)
        while (request := task.request) is not None:
            answer = self._known(request, ledger, at, final) or self._queue(
                request, ledger, writer, at, follows
            )
            if answer is None:
                return False
            follows = answer.error is None
            task.receive(answer)
        return True

    def _known(self, request: Request, ledger: Ledger, at: _Pass, final: bool) -> Answer | None:
        """Return what is known of a request: its answer, or that there will be none."""
        key = request.key
        answer = self._store.get(key)
        if answer is not None:
            if ledger.mark(key, ASKED | COUNTED):
                self._meter.found(answer)
                at.news += 1
            return answer
        ledger.mark(key, ASKED)
        result, failures = ledger.result(key) or (None, 0)
        if result is not None and isinstance(result.outcome, Answer):
            at.news += 1
            return self._keep(request, result.outcome, result.usage, ledger)
        failure = result.outcome if result is not None and isinstance(result.outcome, Failure) else None
        if ledger.under_way(key) is not None:
            return None
        if failure and failure.tried and (failure.hopeless or failures >= self._options.tries):
            told = f"{failure.reason}, tried {failures} times"
        elif final:
            told = failure.reason if failure else MISSING
        else:
            return None
        detail = f"{told}: {failure.detail}" if failure and failure.detail else told
        error = failure.error if failure and failure.tried else "no_answer"
        return self._failed(request, Answer(error=error, detail=detail), ledger)

    def _keep(self, request: Request, answer: Answer, usage: bool, ledger: Ledger) -> Answer:
        """Store an answer that came back, with its price."""
        if not usage:
            answer = self._meter.counted(request, answer)
        answer = replace(answer, price=self._meter.priced(answer))
        self._store.put(request, answer, backend=KIND)
        ledger.mark(request.key, ASKED | COUNTED)
        self._meter.settle(request, answer)
        return answer

    def _failed(self, request: Request, answer: Answer, ledger: Ledger) -> Answer:
        if ledger.mark(request.key, FAILED):
            self._meter.settle(request, answer)
        return answer

    def _queue(
        self, request: Request, ledger: Ledger, writer: RequestWriter, at: _Pass, follows: bool
    ) -> Answer | None:
        """Write a request into the new files, once; return an answer only where it cannot be asked."""
        key, meter = request.key, self._meter
        number = ledger.under_way(key)
        if number is not None:
            at.wanted.add(number)
            return None
        if ledger.is_queued(key, at.number):
            return None
        tokens = meter.prompt_tokens(request)
        most = meter.price.of(tokens, 0, request.sampling.max_tokens, batch=True)
        if meter.budget is not None and meter.spent_before + meter.spent_now + at.held + most > meter.budget:
            if at.held:
                at.put_off += 1
                return None
            meter.over_budget += ledger.mark(key, OVER_BUDGET)
            return Answer(error="over_budget")
        if not writer.add(request, tokens, most):
            return self._failed(
                request, Answer(error="prompt_too_long", detail="larger than a request file may be"), ledger
            )
        ledger.queue(key, at.number)
        at.held += most
        result = ledger.result(key)
        failure = result[0].outcome if result else None
        if isinstance(failure, Failure):
            self._queued[failure.reason] += 1
        elif follows:
            self._queued[FOLLOW_UP] += 1
        elif ledger.lines:
            self._queued[MISSING] += 1
        return None

    # the round

    def _ask(self, writer: RequestWriter, ledger: Ledger, at: _Pass) -> None:
        """Publish the new files and see to their answers; always raises."""
        wanted = [self._under_way[number] for number in sorted(at.wanted)]
        if wanted and self._options.offline:
            raise UserError(
                f"{wanted[0].path} is at the API. Run without OFFLINE=1 to fetch its answers; to forget them, move "
                f"{wanted[0].round.folder} away."
            )
        files: list[Sent] = []
        if writer.files:
            self._rounds += 1
            made = writer.publish(rounds(self._folder))
            files = [Sent(made, file) for file in made.state.files]
        if self._options.offline:
            raise AwaitingResults(
                [one.path for one in files],
                sum(one.file.requests for one in files),
                sum(one.file.tokens for one in files),
                at.held,
                self._queued,
                at.put_off,
            )
        before = (ledger.answers, ledger.failures)
        files += wanted or ([] if files else self._under_way)
        sender = Sender(
            self._connected(),
            files,
            self._options.poll_seconds,
            self._options.enqueued_tokens,
            self._options.patience_hours * 3_600,
        )
        if self._queued:
            tqdm.write(f"batch: asked again: {counted(self._queued)}", file=sys.stderr)
        sender.drive()
        self._begin()
        if ledger.answers == before[0]:
            ever = ledger.answers or self._meter.stored
            if not ever:
                self._close_rounds()  # so that these failures do not count against the next try
            if not ever or ledger.failures == before[1]:
                raise UserError(nothing_answered(ledger, f"The last round in {self._folder}"))
        raise AnotherRound

    def _close_rounds(self) -> None:
        """Make history of rounds that nothing is under way of."""
        for one in rounds(self._folder):
            if not one.state.closed and all(
                file.status not in ("submitting", "submitted") for file in one.state.files
            ):
                one.state.closed = True
                one.save()

    def _say(self, text: str) -> None:
        """Print a line, once."""
        if text not in self._said:
            self._said.add(text)
            tqdm.write(f"batch: {text}", file=sys.stderr)
