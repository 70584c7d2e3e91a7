"""Runs `make calibrate`: measures labels on gold and chooses thresholds for them, or reports how well two judges agree.

Thresholds are chosen on one half of the gold's conversations and reported on the other half. The stage reads labels
that exist already: it sends no request to a judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import polars as pl

from drift_data.calibrate.bootstrap import Estimate
from drift_data.calibrate.excerpts import read_confusion_cells
from drift_data.calibrate.gold import Gold, read_gold
from drift_data.calibrate.match import MatchCounts, match_turns
from drift_data.calibrate.options import CalibrateOptions
from drift_data.calibrate.page import render_quality_page
from drift_data.calibrate.significance import revert_insignificant_moves
from drift_data.calibrate.summary import (
    Comparison,
    Quality,
    compare_labels,
    compare_refusals,
    measure_gain,
    summarize_items,
    summarize_strengths,
)
from drift_data.calibrate.thresholds import (
    CHOOSING_PART,
    REPORTING_PART,
    THRESHOLDS_FILE,
    ThresholdChoice,
    assign_gold_parts,
    choose_thresholds,
    decide_labels,
    has_change_item,
    render_thresholds,
)
from drift_data.calibrate.training_overlap import LabelClassifier, find_classifier
from drift_data.judge.options import Thresholds
from drift_data.judge.rubric import Rubric
from drift_data.schema import NEUTRAL, TableName
from drift_data.workspace import Manifest, Output, UserError, Workspace

CALIBRATE_STAGE = "calibrate"
QUALITY_PAGE_FILE, QUALITY_FILE = "report.html", "quality.json"
# Metrics that the manifest repeats from the first comparison.
_HEADLINE_METRICS = ("kappa", "kappa_dsat", "macro_f1", "precision_DSAT", "recall_DSAT", "f1_DSAT")

_MeasuredLabels = tuple[Quality, pl.DataFrame]  # the report, and the matched rows


def calibrate_labels(
    workspace: Workspace, labels: str, gold: str, rubric: Rubric, options: CalibrateOptions
) -> str:
    """Choose thresholds for labels, and report how good the labels are.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the label table, such as "labels/local".
        gold: labels to measure against, a file or a label table, see `gold.read_gold`.
        rubric: rubric that the judge used; it says which items ask for a change.
        options: how to choose thresholds, and what to show.

    Returns:
        The folder of the workspace with `report.html`, `quality.json` and, where the labels have scores,
        `thresholds.yaml`.

    Raises:
        UserError: the gold does not hold labelled turns, or has no turn in common with the labels; or the labels
            were made with another rubric.
    """
    manifest, truth = workspace.require(labels), read_gold(workspace, gold)
    if labels in truth.inputs:
        raise UserError(
            f"GOLD={gold} is the table that is measured. Choose another GOLD= or another LABELS=."
        )
    in_use = _read_thresholds_in_use(labels, manifest, rubric)
    classifier = find_classifier(workspace, manifest)

    def measure() -> _MeasuredLabels:
        label_rows, matched, counts = match_turns(workspace, labels, truth)
        matched = matched.with_columns(
            part=assign_gold_parts(matched["conversation_id"]),
            change=has_change_item(rubric.change_items),
            seen=classifier.has_seen(matched["conversation_id"]) if classifier else False,
        )
        views, choice, gained = _compare_views(matched, in_use, options)
        notes = _describe_training_overlap(
            {labels: classifier}, matched, "Thresholds are chosen and reported without them."
        )
        notes += choice.notes if choice else ["The labels have no scores: there are no thresholds to choose."]
        if choice:
            matched = matched.with_columns(decided=decide_labels(choice.chosen))
        notes += truth.notes
        quality = _make_quality(labels, manifest, truth.name, counts, label_rows, matched, views, notes)
        return quality.model_copy(update={"choice": choice, "gain": gained}), matched

    folder = f"quality/{_shorten_table_name(labels)}"
    asked = {
        "gold": truth.name,
        "change_items": sorted(rubric.change_items) if in_use else None,
        "classifiers": _list_classifiers([classifier]),
    }
    _run_stage(workspace, folder, labels, truth, options, asked, measure)
    return folder


def report_agreement(workspace: Workspace, labels: str, other: str, options: CalibrateOptions) -> str:
    """Report how well the label tables of two judges, or of two runs of one judge, agree; neither counts as the truth.

    Args:
        workspace: holds `conversations` and both tables.
        labels: folder of the label table, such as "labels/local".
        other: folder of the other label table.
        options: what to show.

    Returns:
        The folder of the workspace with `report.html` and `quality.json`.

    Raises:
        UserError: both are the same table, or have no turn in common.
    """
    if labels == other:
        raise UserError(
            f"AGAINST={other} and LABELS= name the same table. Choose another AGAINST= or another LABELS=."
        )
    manifest = workspace.require(labels)
    second = read_gold(workspace, other)
    classifiers = {name: find_classifier(workspace, workspace.require(name)) for name in (labels, other)}

    def measure() -> _MeasuredLabels:
        label_rows, matched, counts = match_turns(workspace, labels, second)
        views = [compare_labels("all turns that both have", matched, matched["label"], options.seed)]
        notes = _describe_training_overlap(
            classifiers,
            matched,
            "If it learned from the other table's labels, the two tables agree too well.",
        )
        notes += second.notes
        quality = _make_quality(labels, manifest, other, counts, label_rows, matched, views, notes)
        return quality.model_copy(update={"other_is_gold": False}), matched

    folder = f"quality/{_shorten_table_name(labels)}-against-{_shorten_table_name(other)}"
    asked = {"against": other, "classifiers": _list_classifiers(classifiers.values())}
    _run_stage(workspace, folder, labels, second, options, asked, measure)
    return folder


def _read_thresholds_in_use(labels: str, manifest: Manifest, rubric: Rubric) -> Thresholds | None:
    """Return the thresholds that decided the labels; None for labels without scores.

    Raises:
        UserError: the labels were made with another rubric.
    """
    values = manifest.options.get("thresholds")
    if values is None:
        return None
    if manifest.options.get("rubric") != rubric.hash:
        raise UserError(
            f"{labels} was made with the rubric {manifest.options.get('rubric')}, but the rubric in use is "
            f"{rubric.name} ({rubric.hash}). Name the rubric that the judge used with RUBRIC=, or label again."
        )
    return Thresholds.model_validate(values)


def _describe_training_overlap(
    classifiers: Mapping[str, LabelClassifier | None], matched: pl.DataFrame, without: str
) -> list[str]:
    """Return the warnings for figures of classifiers on turns that the classifiers may have learned from.

    Args:
        classifiers: label table → the classifier that made it, None for other judges.
        matched: the measured turns.
        without: last sentence of a warning when a classifier learned from only some of the turns.
    """
    notes = (
        classifier.describe_overlap(labels, matched, without)
        for labels, classifier in classifiers.items()
        if classifier
    )
    return [note for note in notes if note is not None]


def _list_classifiers(classifiers: Iterable[LabelClassifier | None]) -> list[list[object]]:
    """Return the hash of each classifier, and whether its card was found: the warnings depend on both."""
    return [[made.hash, made.card is not None] for made in classifiers if made]


def _compare_views(
    matched: pl.DataFrame, in_use: Thresholds | None, options: CalibrateOptions
) -> tuple[list[Comparison], ThresholdChoice | None, dict[str, Estimate]]:
    """Compare the gold with every set of labels that the report shows.

    Args:
        matched: matched rows, with `part`, `change` and `seen`.
        in_use: thresholds that decided the labels; None: the labels have no scores.
        options: how to choose thresholds.

    Returns:
        The comparisons, of which the first is the one to quote; the choice of thresholds; and metric → what the
        chosen thresholds gain over those in use.
    """
    unseen = matched.filter(~pl.col("seen"))
    if unseen.height == matched.height:
        title, rows = "as labelled, all turns", matched
    elif unseen.height:
        title, rows = "as labelled, all turns not learned from", unseen
    else:
        title, rows = "as labelled, all turns, all learned from", matched
    everywhere = compare_labels(title, rows, rows["label"], options.seed)
    if in_use is None:
        return [everywhere, _compare_all_neutral("all NEUTRAL, all turns", rows, options.seed)], None, {}
    choosing, reporting = (unseen.filter(part=part) for part in (CHOOSING_PART, REPORTING_PART))
    # The classifier has learned from all turns of one part: no threshold can be chosen, or none reported.
    if matched.height > unseen.height and not (choosing.height and reporting.height):
        return [everywhere], choose_thresholds(matched.clear(), in_use, options), {}
    choice = revert_insignificant_moves(
        choosing, choose_thresholds(choosing, in_use, options), options, options.seed
    )
    old, new = (reporting.select(decide_labels(value)).to_series() for value in (in_use, choice.chosen))
    views = [
        compare_labels("as labelled, reporting part", reporting, old, options.seed),
        _compare_all_neutral("all NEUTRAL, reporting part", reporting, options.seed),
        everywhere,
    ]
    if choice.chosen == in_use:
        return views, choice, {}
    views.insert(0, compare_labels("chosen thresholds, reporting part", reporting, new, options.seed))
    return views, choice, measure_gain(reporting, new, old, options.seed)


def _compare_all_neutral(title: str, rows: pl.DataFrame, seed: int) -> Comparison:
    """Compare a judge that calls every turn NEUTRAL with the gold."""
    return compare_labels(
        title, rows, pl.Series([NEUTRAL], dtype=pl.String).new_from_index(0, rows.height), seed
    )


def _make_quality(
    labels: str,
    manifest: Manifest,
    other: str,
    counts: MatchCounts,
    label_rows: pl.DataFrame,
    matched: pl.DataFrame,
    views: list[Comparison],
    notes: list[str],
) -> Quality:
    """Return a report without thresholds, in which the other side counts as gold; the callers change what differs.

    Args:
        labels: folder of the measured label table.
        manifest: manifest of that table.
        other: file or table of the other side.
        counts: how many turns both sides share.
        label_rows: all rows of the label table.
        matched: the matched rows.
        views: the comparisons to show.
        notes: caveats for readers of the figures.
    """
    return Quality(
        labels=labels,
        judge=str(manifest.options.get("judge", manifest.stage)),
        other=other,
        other_is_gold=True,
        match=counts,
        views=views,
        gain={},
        choice=None,
        notes=notes,
        items=summarize_items(label_rows, matched),
        strengths=summarize_strengths(matched),
        refusal=compare_refusals(matched),
    )


def _run_stage(
    workspace: Workspace,
    folder: str,
    labels: str,
    other: Gold,
    options: CalibrateOptions,
    asked: Mapping[str, object],
    measure: Callable[[], _MeasuredLabels],
) -> None:
    """Measure labels and write the folder of the report, unless the workspace has the same report already.

    Args:
        workspace: holds the inputs.
        folder: folder to write, such as "quality/local".
        labels: folder of the measured label table.
        other: the other side: gold, or another judge's labels.
        options: recorded in the manifest under "calibrate".
        asked: further options for the manifest.
        measure: makes the report.
    """

    def build(outputs: Mapping[str, Output]) -> None:
        out = outputs[folder]
        quality, matched = measure()
        cells = read_confusion_cells(workspace, matched, options.examples, options.characters)
        page = render_quality_page(quality, cells, options.characters)
        (out.folder / QUALITY_PAGE_FILE).write_text(page, encoding="utf-8")
        (out.folder / QUALITY_FILE).write_text(quality.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if quality.choice is not None:
            why = f"Thresholds for {labels}, chosen by `make calibrate` on {other.name}."
            text = render_thresholds(quality.choice, why)
            (out.folder / THRESHOLDS_FILE).write_text(text, encoding="utf-8")
        first = quality.views[0]
        out.made_by = {"labels": quality.judge}
        out.results = {"view": first.title, "turns": first.turns} | {
            name: first.figures[name].model_dump() for name in _HEADLINE_METRICS
        }

    workspace.run(
        CALIBRATE_STAGE,
        [folder],
        build,
        options={"labels": labels, **asked, "calibrate": options.model_dump()},
        inputs=[TableName.CONVERSATIONS, labels, *other.inputs],
        files=other.files,
    )


def _shorten_table_name(table: str) -> str:
    """Return a table's name as part of a folder's name: "labels/local" becomes "local"."""
    return table.removeprefix("labels/").replace("/", "-")
