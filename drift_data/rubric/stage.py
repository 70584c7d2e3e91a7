"""The stage `rubric`: learns a rubric from conversations with thumbs, by asking a language model.

The model gives reasons conversation by conversation. Then it folds the reasons into items, in two folds that run at the
same time, one for satisfaction and one for dissatisfaction. The store of requests keeps every answer, so an interrupted
run goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tqdm import tqdm

from drift_data.chats.safe_text import escape_invisible
from drift_data.judge.rubric import dump_rubric
from drift_data.llm.backend import Backend
from drift_data.llm.request import Sampling
from drift_data.rubric.examples import DrawnConversations, draw_from_files, draw_from_labels
from drift_data.rubric.extract import Extraction
from drift_data.rubric.fold import Fold
from drift_data.rubric.options import LearnOptions
from drift_data.rubric.prompt import RubricPrompts
from drift_data.rubric.summary import (
    MAX_DETAIL,
    count_results,
    describe_rubric,
    make_rubric,
    print_rubric_line,
    write_folds,
    write_reasons,
)
from drift_data.schema import DROPPED, DSAT, SAT, TableName
from drift_data.sources.inputs import collect_digests, find_raw_files
from drift_data.workspace import Output, UserError, Workspace, hash_folder

RUBRIC_STAGE: Final = "rubric"
LEARNED_TABLE: Final = "rubric/learned"  # folder that holds RUBRIC_FILE
REASONS_TABLE: Final = "rubric/reasons"
FOLDS_TABLE: Final = "rubric/folds"
RUBRIC_FILE: Final = "rubric.yaml"
_FEELING: Final = {SAT: "satisfaction", DSAT: "dissatisfaction"}
_OVER_BUDGET: Final = "over_budget"  # kind of failure, as in `Answer.error`


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
    """Learn a rubric and write `rubric/learned`; `rubric/reasons` and `rubric/folds` show how it came about.

    Args:
        workspace: to write into; holds `conversations` when `labels` is given.
        backend: sends the requests.
        sampling: model and parameters.
        options: how many conversations, reasons and items.
        inputs: files, folders, globs or a Hub id of chats with thumbs, see `examples.draw_from_files`.
        labels: folder of a label table whose SAT and DSAT turns take the place of thumbs, such as "labels/simulated".
        announce: called once with the extractions of all conversations, before the first request is sent.

    Returns:
        False if the same rubric existed already.

    Raises:
        UserError: the input has no thumbs, the answers give no rubric, or a rubric that somebody edited would be lost.
    """
    if bool(inputs) == (labels is not None):
        raise UserError(
            "Give INPUT= (chats with thumbs) or LABELS= (a label table of this workspace): one of the two."
        )
    files = find_raw_files(inputs) if inputs else []
    prompts = RubricPrompts(options)

    def build(outputs: Mapping[str, Output]) -> None:
        _refuse_to_replace_edits(workspace)
        learned, reasons, folded = outputs[LEARNED_TABLE], outputs[REASONS_TABLE], outputs[FOLDS_TABLE]
        if labels is None:
            drawn = draw_from_files(
                files, options.per_label, options.seed, lambda row: reasons.drop([row], DROPPED)
            )
        else:
            drawn = draw_from_labels(workspace, labels, options.per_label, options.seed)
        reasons.rows_in = len(drawn.examples) + drawn.unreadable
        _print_drawn(drawn)
        extractions = [Extraction(example, prompts, sampling, options) for example in drawn.examples]
        announce(extractions)
        _run_extractions(extractions, backend)
        folds = _run_folds(write_reasons(reasons, extractions), backend, prompts, sampling, options)
        write_folds(folded, folds)
        rubric = make_rubric(folds)
        text = dump_rubric(rubric, describe_rubric(sampling.model, options, extractions, folds))
        (learned.folder / RUBRIC_FILE).write_text(text, encoding="utf-8")
        reasons.results = count_results(drawn, extractions)
        learned.results = {"hash": rubric.hash, "items": len(rubric.items)}
        for output in (learned, reasons, folded):
            output.made_by = {"judge": f"{backend.kind}:{sampling.model}", **backend.report()}

    return workspace.run(
        RUBRIC_STAGE,
        [LEARNED_TABLE, REASONS_TABLE, FOLDS_TABLE],
        build,
        options={
            "prompt": prompts.version,
            "sampling": sampling.model_dump(),
            "labels": labels,
            **options.model_dump(),
        },
        inputs=[] if labels is None else [TableName.CONVERSATIONS, labels],
        files=collect_digests(files),
    )


def _refuse_to_replace_edits(workspace: Workspace) -> None:
    """Raise a UserError when somebody has edited the rubric that would be replaced."""
    manifest, folder = workspace.manifest(LEARNED_TABLE), workspace.path(LEARNED_TABLE)
    if manifest is not None and hash_folder(folder) != manifest.digest:
        raise UserError(
            f"{folder / RUBRIC_FILE} was edited, and learning again would replace it. Copy it to a place outside the "
            f"workspace to use it there (RUBRIC=file), delete {folder}, and run again."
        )


def _run_extractions(tasks: Sequence[Extraction], backend: Backend) -> None:
    """Ask for the reasons in all conversations.

    Raises:
        UserError: most conversations got no usable answer, or the budget ended.
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
            "was answered is kept: raise BUDGET= and run again, or lower label.learn.per_label."
        )
    if failures.total() * 2 > len(tasks):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in failures.most_common())
        raise UserError(
            f"{failures.total():,} of {len(tasks):,} conversations got no answer that can be used ({reasons}). "
            "What was answered is kept: run again when the server is well, or choose another MODEL=."
        )


def _print_drawn(drawn: DrawnConversations) -> None:
    """Print how many conversations are read for each label, and warn if a label has none."""
    read = Counter(example.label for example in drawn.examples)
    for label, feeling in _FEELING.items():
        print_rubric_line(
            f"{feeling}: {read[label]:,} conversations are read, from {drawn.available.get(label, 0):,} thumbs"
        )
        if not read[label]:
            print_rubric_line(
                f"WARNING: no conversation shows {feeling}, so the rubric will have no {label} item, and a judge "
                f"that uses it will never say {label}. Add such conversations, or write items by hand."
            )


def _run_folds(
    reasons: Mapping[str, Sequence[str]],
    backend: Backend,
    prompts: RubricPrompts,
    sampling: Sampling,
    options: LearnOptions,
) -> dict[str, Fold]:
    """Fold the reasons of both polarities and return the finished folds.

    If items of both polarities have the same name, the model is asked once for other names of the DSAT items.

    Raises:
        UserError: a fold could not be finished, or there is nothing to fold.
    """
    folds = {label: Fold(label, reasons[label], prompts, sampling, options) for label in (SAT, DSAT)}
    steps = sum(len(fold.batches) for fold in folds.values())
    if not steps:
        raise UserError(
            "No conversation gave a reason: the model finds no sign of satisfaction or dissatisfaction in the users' "
            "messages. Look into its answers (the store's requests with purpose extract), or give other conversations."
        )
    print_rubric_line(f"folding {sum(map(len, reasons.values())):,} reasons in {steps} steps")
    for fold in backend.run(list(folds.values())):
        _check_fold(fold)
    names = {label: {item.name.lower() for item in fold.items} for label, fold in folds.items()}
    if names[SAT] & names[DSAT]:
        folds[DSAT].rename(names[SAT])
        for fold in backend.run([folds[DSAT]]):
            _check_fold(fold)
    for fold in folds.values():
        for step in fold.steps:
            if step.problem is not None:
                feeling = _FEELING[fold.polarity]
                print_rubric_line(
                    f"WARNING: step {step.number} of {feeling} gave no usable items ({step.problem})"
                )
    return folds


def _check_fold(fold: Fold) -> None:
    """Raise a UserError when a fold was broken off or gave no items."""
    feeling = _FEELING[fold.polarity]
    if fold.failure is not None:
        reason, detail = fold.failure
        raise UserError(
            f"The fold of {feeling} was broken off after {len(fold.steps)} of {len(fold.batches)} steps: {reason}"
            + (f" ({escape_invisible(detail, MAX_DETAIL)})" if detail else "")
            + ". What was answered is kept: run again to go on"
            + (", with a higher BUDGET=." if reason == _OVER_BUDGET else ".")
        )
    if fold.batches and not fold.items:
        raise UserError(
            f"The model gave no list of items for {feeling} that can be used, in {len(fold.steps)} steps. Its "
            "answers are in the store of requests (purpose fold). Choose another MODEL=."
        )
