"""The stage `rubric`: conversations with thumbs × a model → a rubric. It knows not how requests travel.

Reasons are extracted conversation by conversation, then folded, satisfaction and dissatisfaction apart and
side by side. Every answer is in the store of requests, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tqdm import tqdm

from drift_data.chats.safe_text import visible
from drift_data.judge.rubric import dump_rubric
from drift_data.llm.backend import Backend
from drift_data.llm.request import Sampling
from drift_data.rubric.examples import Drawn, from_files, from_labels
from drift_data.rubric.extract import Extraction
from drift_data.rubric.fold import Fold
from drift_data.rubric.options import LearnOptions
from drift_data.rubric.prompt import Prompts
from drift_data.rubric.summary import (
    DETAIL,
    counts,
    header,
    rubric_of,
    say,
    write_folds,
    write_reasons,
)
from drift_data.schema import DROPPED, DSAT, SAT, TableName
from drift_data.sources.inputs import digests, raw_files
from drift_data.workspace import Output, UserError, Workspace, folder_digest

STAGE: Final = "rubric"
LEARNED: Final = "rubric/learned"  # holds FILE
REASONS: Final = "rubric/reasons"
FOLDS: Final = "rubric/folds"
FILE: Final = "rubric.yaml"
_FEELING: Final = {SAT: "satisfaction", DSAT: "dissatisfaction"}
_OVER_BUDGET: Final = "over_budget"


def learn_rubric(
    workspace: Workspace,
    backend: Backend,
    sampling: Sampling,
    options: LearnOptions = LearnOptions(),  # noqa: B008  (frozen)
    *,
    inputs: Sequence[str] = (),
    labels: str | None = None,
    announce: Callable[[Sequence[Extraction]], None] = lambda _: None,
) -> bool:
    """Learn a rubric and write `rubric/learned`, with `rubric/reasons` and `rubric/folds` to see how.

    Args:
        workspace: to write into; holds `conversations` when `labels` is given.
        backend: sends the requests.
        sampling: model and parameters.
        options: see there.
        inputs: files, folders, globs or a Hub id of chats with thumbs, see `examples.from_files`.
        labels: folder of a label table to take for thumbs instead, such as "labels/simulated".
        announce: told what will be asked of the conversations, before the first request is sent.

    Returns:
        False when the same rubric was there already.

    Raises:
        UserError: the input has no thumbs, the answers give no rubric, or one that was edited would be lost.
    """
    if bool(inputs) == (labels is not None):
        raise UserError(
            "Give INPUT= (chats with thumbs) or LABELS= (a label table of this workspace): one of the two."
        )
    files = raw_files(inputs) if inputs else []
    prompts = Prompts(options)

    def build(outputs: Mapping[str, Output]) -> None:
        _protect_edits(workspace)
        learned, reasons, folded = outputs[LEARNED], outputs[REASONS], outputs[FOLDS]
        if labels is None:
            drawn = from_files(
                files, options.per_label, options.seed, lambda row: reasons.drop([row], DROPPED)
            )
        else:
            drawn = from_labels(workspace, labels, options.per_label, options.seed)
        reasons.rows_in = len(drawn.examples) + drawn.unreadable
        _say_drawn(drawn)
        extractions = [Extraction(example, prompts, sampling, options) for example in drawn.examples]
        announce(extractions)
        _extract(extractions, backend)
        folds = _fold(write_reasons(reasons, extractions), backend, prompts, sampling, options)
        write_folds(folded, folds)
        rubric = rubric_of(folds)
        text = dump_rubric(rubric, header(sampling.model, options, extractions, folds))
        (learned.folder / FILE).write_text(text, encoding="utf-8")
        reasons.results = counts(drawn, extractions)
        learned.results = {"hash": rubric.hash, "items": len(rubric.items)}
        for output in (learned, reasons, folded):
            output.made_by = {"judge": f"{backend.kind}:{sampling.model}", **backend.report()}

    return workspace.run(
        STAGE,
        [LEARNED, REASONS, FOLDS],
        build,
        options={
            "prompt": prompts.version,
            "sampling": sampling.model_dump(),
            "labels": labels,
            **options.model_dump(),
        },
        inputs=[] if labels is None else [TableName.CONVERSATIONS, labels],
        files=digests(files),
    )


def _protect_edits(workspace: Workspace) -> None:
    """Raise when the rubric that would be replaced is no longer as it was written."""
    manifest, folder = workspace.manifest(LEARNED), workspace.path(LEARNED)
    if manifest is not None and folder_digest(folder) != manifest.digest:
        raise UserError(
            f"{folder / FILE} was edited, and learning again would replace it. Copy it to a place outside the "
            f"workspace to use it there (RUBRIC=file), delete {folder}, and run again."
        )


def _extract(tasks: Sequence[Extraction], backend: Backend) -> None:
    """Finish the extractions.

    Raises:
        UserError: most failed, or the budget ended.
    """
    with tqdm(
        total=len(tasks), desc="rubric: extract", unit=" conv", mininterval=0.5, file=sys.stderr
    ) as bar:
        for _ in backend.run(tasks):
            bar.update()
    failures = Counter(task.failure[0] for task in tasks if task.failure)
    if failures[_OVER_BUDGET]:
        raise UserError(
            f"The budget ended after {len(tasks) - failures.total():,} of {len(tasks):,} conversations. What "
            "was answered is kept: raise BUDGET= and run again, or lower per_label."
        )
    if failures.total() * 2 > len(tasks):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in failures.most_common())
        raise UserError(
            f"{failures.total():,} of {len(tasks):,} conversations got no answer that can be used ({reasons}). "
            "What was answered is kept: run again when the server is well, or choose another MODEL=."
        )


def _say_drawn(drawn: Drawn) -> None:
    read = Counter(example.label for example in drawn.examples)
    for label, feeling in _FEELING.items():
        say(
            f"{feeling}: {read[label]:,} conversations read, thumbs there are {drawn.available.get(label, 0):,}"
        )
        if not read[label]:
            say(
                f"WARNING: no conversation shows {feeling}, so the rubric will have no {label} item, and a judge "
                f"that uses it will never say {label}. Add such conversations, or write items by hand."
            )


def _fold(
    reasons: Mapping[str, Sequence[str]],
    backend: Backend,
    prompts: Prompts,
    sampling: Sampling,
    options: LearnOptions,
) -> dict[str, Fold]:
    """Return the finished folds of both polarities, their names apart as far as the model managed.

    Raises:
        UserError: one could not be finished, or there is nothing to fold.
    """
    folds = {label: Fold(label, reasons[label], prompts, sampling, options) for label in (SAT, DSAT)}
    steps = sum(len(fold.batches) for fold in folds.values())
    if not steps:
        raise UserError(
            "No conversation gave a reason: to the model, the users' messages show nothing. Look into its "
            "answers (the store's requests with purpose extract), or give other conversations."
        )
    say(f"folding {sum(map(len, reasons.values())):,} reasons in {steps} steps")
    for fold in backend.run(list(folds.values())):
        _check(fold)
    names = {label: {item.name.lower() for item in fold.items} for label, fold in folds.items()}
    if names[SAT] & names[DSAT]:
        folds[DSAT].rename(names[SAT])
        for fold in backend.run([folds[DSAT]]):
            _check(fold)
    for fold in folds.values():
        for step in fold.steps:
            if step.problem is not None:
                feeling = _FEELING[fold.polarity]
                say(f"WARNING: step {step.number} of {feeling} gave no usable items ({step.problem})")
    return folds


def _check(fold: Fold) -> None:
    """Raise when a fold was broken off or came to nothing."""
    feeling = _FEELING[fold.polarity]
    if fold.failure is not None:
        reason, detail = fold.failure
        raise UserError(
            f"The fold of {feeling} was broken off after {len(fold.steps)} of {len(fold.batches)} steps: {reason}"
            + (f" ({visible(detail, DETAIL)})" if detail else "")
            + ". What was answered is kept: run again to go on"
            + (", with a higher BUDGET=." if reason == _OVER_BUDGET else ".")
        )
    if fold.batches and not fold.items:
        raise UserError(
            f"The model gave no list of items for {feeling} that can be used, in {len(fold.steps)} steps. Its "
            "answers are in the store of requests (purpose fold). Choose another MODEL=."
        )
