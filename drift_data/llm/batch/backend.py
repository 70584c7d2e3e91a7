"""The backend for the Batch API: requests go out as files, answers come back as files, joined by `custom_id`.

The backend works in rounds. A pass over the tasks gives each task the answers that the store and the results hold.
Requests without an answer go into the request files of a new round, and the tasks are forgotten, so memory stays
flat. Once the round has its results, the caller makes the same tasks again (`run_in_rounds`). A pass that leaves a
task unfinished ends with an exception, and its caller starts anew; the first pass that leaves none yields all tasks.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tqdm import tqdm

from drift_data.llm.backend import AnyTask, Task
from drift_data.llm.batch.api import BatchAPI, BatchRunner, SentFile
from drift_data.llm.batch.files import RequestWriter, load_rounds, read_keys
from drift_data.llm.batch.progress import ASKED, COUNTED, FAILED, OVER_BUDGET, BatchProgress
from drift_data.llm.batch.results import Failure, find_result_files
from drift_data.llm.batch.rounds import (
    FOLLOW_UP,
    NOT_IN_RESULTS,
    AnotherRound,
    AwaitingResults,
    describe_counts,
    describe_results,
    explain_no_answers,
)
from drift_data.llm.cost import Spending
from drift_data.llm.options import BatchOptions, ServerOptions
from drift_data.llm.request import Answer, Request
from drift_data.llm.store import Store
from drift_data.workspace import UserError

_KIND: Final = "batch"  # how the store and manifests name this way of asking


@dataclass
class _Pass:
    """What one pass over the tasks has found."""

    number: int  # from 1
    held: float  # the most that the requests at the API and in the new files can cost
    unfinished: int = 0  # tasks
    news: int = 0  # answers that no earlier pass has counted
    wanted: set[int] = field(default_factory=set)  # numbers of the files at the API that tasks wait for
    put_off: int = 0  # requests for which the budget has no room until others are answered


class BatchBackend:
    """A `Backend` that asks by files in the format of the Batch API.

    Args:
        store: keeps the answers.
        spending: counts tokens and money; it is set to batch prices.
        folder: holds all rounds.
        server: speaks the Batch API; not used offline.
        options: how large files may be, who sends them, and when to stop.
    """

    kind = _KIND

    def __init__(
        self, store: Store, spending: Spending, folder: Path, server: ServerOptions, options: BatchOptions
    ) -> None:
        self._store, self._spending, self._options = store, spending, options
        self._folder, self._server = folder, server
        spending.batch = True
        self._progress: BatchProgress | None = None
        self._files_read, self._printed = set[Path](), set[str]()
        self._pass_number = self._rounds_made = 0
        # Why requests are in the newest files although earlier ones were answered → how many requests.
        self._queued: Counter[str] = Counter()
        self._under_way: list[SentFile] = []
        self._api: BatchAPI | None = None

    def run(self, tasks: Iterable[AnyTask]) -> Iterator[AnyTask]:
        """Yield the tasks if all of them can be finished; else ask for the answers that are missing, and raise.

        The tasks before the first unfinished one are yielded, too: a caller throws them away when this raises.

        Raises:
            AwaitingResults: offline, and files wait to be sent.
            AnotherRound: the caller has to run the same tasks again, see `run_in_rounds`.
            UserError: the API refuses, or no request was answered.
        """
        progress = self._take_in_results()
        self._pass_number += 1
        this_pass = _Pass(self._pass_number, sum(sent.file.most for sent in self._under_way))
        self._queued.clear()
        options = self._options
        writer = RequestWriter(
            self._folder, options.requests_per_file, options.bytes_per_file, options.enqueued_tokens
        )
        try:
            for task in tasks:
                if not self._advance(task, progress, writer, this_pass):
                    this_pass.unfinished += 1
                elif not this_pass.unfinished:
                    yield task
            for line in describe_results(progress):
                self._print_once(line)
            if not this_pass.unfinished:
                self._close_rounds()
                return
            if this_pass.news and self._spending.budget is not None:
                raise AnotherRound  # this pass has counted all that was spent; the next one can keep the budget
            self._ask_for_missing(writer, progress, this_pass)
        finally:
            writer.discard()

    def report(self) -> Mapping[str, Any]:
        """Return requests, tokens and price, and what the result files held."""
        progress = self._progress
        if progress is None:
            return {**self._spending.report(), "batch": {"rounds": 0}}
        return {
            **self._spending.report(),
            "batch": {
                "rounds": self._rounds_made,
                "result_lines": progress.lines,
                "doubled": progress.repeated,
                "malformed": progress.malformed,
                "unknown": progress.count_unknown(),
                "failed": dict(progress.reasons.most_common()),
            },
        }

    def close(self) -> None:
        """Close connections and remove scratch files; request and result files stay."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        if self._api is not None:
            self._api.close()
            self._api = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Steps before the tasks are driven.

    def _take_in_results(self) -> BatchProgress:
        """Read the results that have come, and find out which files are at the API."""
        options = self._options
        if self._progress is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._progress = BatchProgress(self._folder)
            self._progress.read(find_result_files(options.results))
            hopeless = self._progress.hopeless_tries and not self._progress.answers
            if hopeless and not options.final and not self._store.count():
                raise UserError(explain_no_answers(self._progress, ", ".join(options.results)))
        open_rounds = [one for one in load_rounds(self._folder) if not one.state.closed]
        sent = [SentFile(one, file) for one in open_rounds for file in one.state.files]
        self._under_way = [one for one in sent if one.file.status in ("submitting", "submitted")]
        for one in self._under_way:
            if one.file.status == "submitting" and not options.offline:
                self._connect().find(one)
        self._under_way = [one for one in self._under_way if one.file.status != "written"]
        new = [path for one in open_rounds for path in one.list_results() if path not in self._files_read]
        self._progress.read(new)
        self._files_read.update(new)
        self._progress.clear_under_way()
        for number, one in enumerate(self._under_way):
            self._progress.put_under_way(read_keys(one.path), number)
        return self._progress

    def _connect(self) -> BatchAPI:
        if self._api is None:
            try:
                self._api = BatchAPI(self._server)
            except UserError as error:
                raise UserError(f"{error} To write files that somebody else sends, use OFFLINE=1.") from error
        return self._api

    # Steps for each task.

    def _advance(self, task: Task, progress: BatchProgress, writer: RequestWriter, this_pass: _Pass) -> bool:
        """Give a task all answers that have come, and queue its next request; say whether the task is finished."""
        follows, final = False, self._options.final and not task.is_needed
        while (request := task.request) is not None:
            answer = self._find_answer(request, progress, this_pass, final) or self._queue(
                request, progress, writer, this_pass, follows
            )
            if answer is None:
                return False
            follows = answer.error is None
            task.receive(answer)
        return True

    def _find_answer(
        self, request: Request, progress: BatchProgress, this_pass: _Pass, final: bool
    ) -> Answer | None:
        """Return the answer to a request, or one that says that there will be none; None while it may still come."""
        key = request.key
        answer = self._store.get(key)
        if answer is not None:
            if progress.mark(key, ASKED | COUNTED):
                self._spending.record_cached(answer)
                this_pass.news += 1
            return answer
        progress.mark(key, ASKED)
        result, failures = progress.get_result(key) or (None, 0)
        if result is not None and isinstance(result.outcome, Answer):
            this_pass.news += 1
            return self._store_answer(request, result.outcome, result.usage, progress)
        failure = result.outcome if result is not None and isinstance(result.outcome, Failure) else None
        if progress.file_under_way(key) is not None:
            return None
        if failure and failure.tried and (failure.hopeless or failures >= self._options.tries):
            told = f"{failure.reason}, tried {failures} times"
        elif final:
            told = failure.reason if failure else NOT_IN_RESULTS
        else:
            return None
        detail = f"{told}: {failure.detail}" if failure and failure.detail else told
        error = failure.error if failure and failure.tried else "no_answer"
        return self._give_up(request, Answer(error=error, detail=detail), progress)

    def _store_answer(self, request: Request, answer: Answer, usage: bool, progress: BatchProgress) -> Answer:
        """Store an answer that came back, with its price, and return it."""
        if not usage:
            answer = self._spending.estimate_tokens(request, answer)
        answer = replace(answer, price=self._spending.price_of(answer))
        self._store.put(request, answer, backend=_KIND)
        progress.mark(request.key, ASKED | COUNTED)
        self._spending.record(request, answer)
        return answer

    def _give_up(self, request: Request, answer: Answer, progress: BatchProgress) -> Answer:
        """Count a request that failed for good, once, and return `answer`, which says why."""
        if progress.mark(request.key, FAILED):
            self._spending.record(request, answer)
        return answer

    def _queue(
        self,
        request: Request,
        progress: BatchProgress,
        writer: RequestWriter,
        this_pass: _Pass,
        follows: bool,
    ) -> Answer | None:
        """Write a request into the new files, once; return an answer only where the request cannot be asked.

        Args:
            follows: whether the task made the request after an answer that it got in this pass.
        """
        key, spending = request.key, self._spending
        number = progress.file_under_way(key)
        if number is not None:
            this_pass.wanted.add(number)
            return None
        if progress.is_queued(key, this_pass.number):
            return None
        tokens = spending.count_prompt_tokens(request)
        most = spending.price.of(tokens, 0, request.sampling.max_tokens, batch=True)
        if (
            spending.budget is not None
            and spending.spent_before + spending.spent_now + this_pass.held + most > spending.budget
        ):
            if this_pass.held:
                this_pass.put_off += 1
                return None
            spending.over_budget += progress.mark(key, OVER_BUDGET)
            return Answer(error="over_budget")
        if not writer.add(request, tokens, most):
            return self._give_up(
                request, Answer(error="prompt_too_long", detail="larger than a request file may be"), progress
            )
        progress.queue(key, this_pass.number)
        this_pass.held += most
        result = progress.get_result(key)
        failure = result[0].outcome if result else None
        if isinstance(failure, Failure):
            self._queued[failure.reason] += 1
        elif follows:
            self._queued[FOLLOW_UP] += 1
        elif progress.lines:
            self._queued[NOT_IN_RESULTS] += 1
        return None

    # Steps for the round.

    def _ask_for_missing(self, writer: RequestWriter, progress: BatchProgress, this_pass: _Pass) -> None:
        """Publish the new files and, unless offline, wait for their answers. Always raises, see `run`."""
        wanted = [self._under_way[number] for number in sorted(this_pass.wanted)]
        if wanted and self._options.offline:
            raise UserError(
                f"{wanted[0].path} is at the API. Run without OFFLINE=1 to fetch its answers; to forget them, move "
                f"{wanted[0].round.folder} away."
            )
        files: list[SentFile] = []
        if writer.files:
            self._rounds_made += 1
            made = writer.publish(load_rounds(self._folder))
            files = [SentFile(made, file) for file in made.state.files]
        if self._options.offline:
            raise AwaitingResults(
                [one.path for one in files],
                sum(one.file.requests for one in files),
                sum(one.file.tokens for one in files),
                this_pass.held,
                self._queued,
                this_pass.put_off,
            )
        before = (progress.answers, progress.failed_tries)
        files += wanted or ([] if files else self._under_way)
        runner = BatchRunner(
            self._connect(),
            files,
            self._options.poll_seconds,
            self._options.enqueued_tokens,
            self._options.patience_hours * 3_600,
        )
        if self._queued:
            tqdm.write(f"batch: asked again: {describe_counts(self._queued)}", file=sys.stderr)
        runner.run()
        self._take_in_results()
        if progress.answers == before[0]:
            ever = progress.answers or self._spending.stored
            if not ever:
                self._close_rounds()  # the failures of this round then do not count as tries of the next run
            if not ever or progress.failed_tries == before[1]:
                raise UserError(explain_no_answers(progress, f"The last round in {self._folder}"))
        raise AnotherRound

    def _close_rounds(self) -> None:
        """Close every round that has no file at the API."""
        for one in load_rounds(self._folder):
            if not one.state.closed and all(
                file.status not in ("submitting", "submitted") for file in one.state.files
            ):
                one.state.closed = True
                one.save()

    def _print_once(self, text: str) -> None:
        """Print a line, unless it was printed before."""
        if text not in self._printed:
            self._printed.add(text)
            tqdm.write(f"batch: {text}", file=sys.stderr)
