"""The calibrate stage: labels × gold → thresholds and a quality report; labels × other labels → their agreement.

Thresholds are chosen on one part of the gold and reported on the other; the parts are made by conversation.
No judge is asked anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import polars as pl

from drift_data.calibrate.bootstrap import Estimate
from drift_data.calibrate.excerpts import read_cells
from drift_data.calibrate.gold import Gold, read_gold
from drift_data.calibrate.match import CONVERSATIONS, Match, match
from drift_data.calibrate.options import CalibrateOptions
from drift_data.calibrate.page import render
from drift_data.calibrate.significance import steady
from drift_data.calibrate.summary import Quality, View, gain, items, refusal, strengths, view
from drift_data.calibrate.thresholds import (
    CHOOSING,
    REPORTING,
    Choice,
    asks_for_change,
    choose,
    decided,
    fragment,
    part_of,
)
from drift_data.calibrate.training_overlap import Classifier, classifier_of
from drift_data.judge.label_rule import Thresholds
from drift_data.judge.rubric import Rubric
from drift_data.schema import NEUTRAL
from drift_data.workspace import Build, Manifest, UserError, Workspace

STAGE = "calibrate"
REPORT, RESULT, THRESHOLDS = "report.html", "quality.json", "thresholds.yaml"
_HEADLINE = ("kappa", "kappa_dsat", "macro_f1", "precision_DSAT", "recall_DSAT", "f1_DSAT")

Measured = tuple[Quality, pl.DataFrame]  # the report and the matched rows


def calibrate(workspace: Workspace, labels: str, gold: str, rubric: Rubric, options: CalibrateOptions) -> str:
    """Choose thresholds for labels and report how good they are.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the label table, such as "labels/local".
        gold: the labels to believe: a file or a label table, see `gold.read_gold`.
        rubric: the one the judge used: it says which items ask for a change.
        options: how.

    Returns:
        The folder of the workspace with `report.html`, `quality.json` and, where the labels have scores,
        `thresholds.yaml`.

    Raises:
        UserError: the gold is no list of labelled turns, has no turn in common with the labels, or they were
            made with another rubric.
    """
    manifest, truth = workspace.require(labels), read_gold(workspace, gold)
    if labels in truth.inputs:
        raise UserError(f"GOLD={gold} is the table that is measured. Choose other gold, or LABELS=.")
    present, classifier = _present(labels, manifest, rubric), classifier_of(workspace, manifest)

    def measure() -> Measured:
        every, matched, account = match(workspace, labels, truth)
        matched = matched.with_columns(
            part=part_of(matched["conversation_id"]),
            change=asks_for_change(rubric.change_items),
            seen=classifier.has_seen(matched["conversation_id"]) if classifier else False,
        )
        views, choice, gained = _views(matched, present, options)
        notes = _learned({labels: classifier}, matched, "Thresholds are chosen and reported without them.")
        notes += choice.notes if choice else ["The labels have no scores: there are no thresholds to choose."]
        if choice:
            matched = matched.with_columns(decided=decided(choice.chosen))
        notes += truth.notes
        quality = _quality(labels, manifest, truth.name, account, every, matched, views, notes)
        return quality.model_copy(update={"choice": choice, "gain": gained}), matched

    folder = f"quality/{_short(labels)}"
    asked = {
        "gold": truth.name,
        "change_items": sorted(rubric.change_items) if present else None,
        "classifiers": _known([classifier]),
    }
    _run(workspace, folder, labels, truth, options, asked, measure)
    return folder


def compare(workspace: Workspace, labels: str, other: str, options: CalibrateOptions) -> str:
    """Report how well two label tables agree: two judges, or two runs of one. Neither is taken for the truth.

    Returns:
        The folder of the workspace with `report.html` and `quality.json`.

    Raises:
        UserError: they are one and the same, or have no turn in common.
    """
    if labels == other:
        raise UserError(f"AGAINST={other} is the table that is compared. Choose another one, or LABELS=.")
    manifest = workspace.require(labels)
    second = read_gold(workspace, other)
    classifiers = {name: classifier_of(workspace, workspace.require(name)) for name in (labels, other)}

    def measure() -> Measured:
        every, matched, account = match(workspace, labels, second)
        views = [view("all turns that both have", matched, matched["label"], options.seed)]
        notes = _learned(classifiers, matched, "Where the other table taught it, they agree too well.")
        notes += second.notes
        quality = _quality(labels, manifest, other, account, every, matched, views, notes)
        return quality.model_copy(update={"other_is_gold": False}), matched

    folder = f"quality/{_short(labels)}-against-{_short(other)}"
    asked = {"against": other, "classifiers": _known(classifiers.values())}
    _run(workspace, folder, labels, second, options, asked, measure)
    return folder


def _present(labels: str, manifest: Manifest, rubric: Rubric) -> Thresholds | None:
    """Return the thresholds that decided the labels; None for labels that have no scores."""
    values = manifest.options.get("thresholds")
    if values is None:
        return None
    if manifest.options.get("rubric") != rubric.hash:
        raise UserError(
            f"{labels} was made with the rubric {manifest.options.get('rubric')}, and this is {rubric.name} "
            f"({rubric.hash}). Name the rubric that the judge used with RUBRIC=, or label again."
        )
    return Thresholds.model_validate(values)


def _learned(classifiers: Mapping[str, Classifier | None], matched: pl.DataFrame, without: str) -> list[str]:
    """Return what must be known of figures of classifiers on turns that they may have learned from."""
    notes = (made.note(labels, matched, without) for labels, made in classifiers.items() if made)
    return [note for note in notes if note is not None]


def _known(classifiers: Iterable[Classifier | None]) -> list[list[object]]:
    """Return what makes such notes differ."""
    return [[made.hash, made.card is not None] for made in classifiers if made]


def _views(
    matched: pl.DataFrame, present: Thresholds | None, options: CalibrateOptions
) -> tuple[list[View], Choice | None, dict[str, Estimate]]:
    """Return the sets of labels to show, the one to quote first; the choice; what it gains."""
    unseen = matched.filter(~pl.col("seen"))
    if unseen.height == matched.height:
        title, rows = "as labelled, all turns", matched
    elif unseen.height:
        title, rows = "as labelled, all turns not learned from", unseen
    else:
        title, rows = "as labelled, all turns, all learned from", matched
    everywhere = view(title, rows, rows["label"], options.seed)
    if present is None:
        return [everywhere, _nothing("all NEUTRAL, all turns", rows, options.seed)], None, {}
    choosing, reporting = (unseen.filter(part=part) for part in (CHOOSING, REPORTING))
    if matched.height > unseen.height and not (choosing.height and reporting.height):
        return [everywhere], choose(matched.clear(), present, options), {}
    choice = steady(choosing, choose(choosing, present, options), options, options.seed)
    old, new = (reporting.select(decided(value)).to_series() for value in (present, choice.chosen))
    views = [
        view("as labelled, reporting part", reporting, old, options.seed),
        _nothing("all NEUTRAL, reporting part", reporting, options.seed),
        everywhere,
    ]
    if choice.chosen == present:
        return views, choice, {}
    views.insert(0, view("chosen thresholds, reporting part", reporting, new, options.seed))
    return views, choice, gain(reporting, new, old, options.seed)


def _nothing(title: str, rows: pl.DataFrame, seed: int) -> View:
    """Return the view of a judge that sees nothing."""
    return view(title, rows, pl.Series([NEUTRAL], dtype=pl.String).new_from_index(0, rows.height), seed)


def _quality(
    labels: str,
    manifest: Manifest,
    other: str,
    account: Match,
    every: pl.DataFrame,
    matched: pl.DataFrame,
    views: list[View],
    notes: list[str],
) -> Quality:
    return Quality(
        labels=labels,
        judge=str(manifest.options.get("judge", manifest.stage)),
        other=other,
        other_is_gold=True,
        match=account,
        views=views,
        gain={},
        choice=None,
        notes=notes,
        items=items(every, matched),
        strengths=strengths(matched),
        refusal=refusal(matched),
    )


def _run(
    workspace: Workspace,
    folder: str,
    labels: str,
    other: Gold,
    options: CalibrateOptions,
    asked: Mapping[str, object],
    measure: Callable[[], Measured],
) -> None:
    """Measure and write the folder, unless it is there already."""

    def build(outputs: Build) -> None:
        out = outputs[folder]
        quality, matched = measure()
        cells = read_cells(workspace, matched, options.examples, options.characters)
        page = render(quality, cells, options.characters)
        (out.folder / REPORT).write_text(page, encoding="utf-8")
        (out.folder / RESULT).write_text(quality.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if quality.choice is not None:
            why = f"Thresholds for {labels}, chosen by `make calibrate` on {other.name}."
            text = fragment(quality.choice, why)
            (out.folder / THRESHOLDS).write_text(text, encoding="utf-8")
        first = quality.views[0]
        out.made_by = {"labels": quality.judge}
        out.results = {"view": first.title, "turns": first.turns} | {
            name: first.figures[name].model_dump() for name in _HEADLINE
        }

    workspace.run(
        STAGE,
        [folder],
        build,
        options={"labels": labels, **asked, "calibrate": options.model_dump()},
        inputs=[CONVERSATIONS, labels, *other.inputs],
        files=other.files,
    )


def _short(table: str) -> str:
    return table.removeprefix("labels/").replace("/", "-")
