"""The stage `label`: a judge labels every feedback turn of `conversations`, into `labels/<judge>`.

Labelled and dropped turns together are exactly the feedback turns, each once. The stage stops if a judge breaks this.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from drift_data.judge.base import CONVERSATION_COLUMNS, Judge, JudgedBatch, UnlabelledTurn, list_feedback_keys
from drift_data.judge.label_rule import decide_label
from drift_data.judge.options import Thresholds
from drift_data.labels.reviewer import HUMAN_TABLE_PREFIX
from drift_data.labels.sample import (
    Sample,
    choose_sample,
    describe_earlier_sample,
    iter_sampled_conversations,
)
from drift_data.labels.tables import LABEL_STAGE, SAMPLE_STAGE, copy_dropped, name_label_table
from drift_data.schema import DROPPED, LABEL_ROWS, LABELS, TableName
from drift_data.workspace import AccountingError, Manifest, Output, UserError, Workspace

_BATCH_CONVERSATIONS = 1_000  # conversations that a judge gets at once


def label(
    workspace: Workspace,
    judge: Judge,
    thresholds: Thresholds,
    name: str | None = None,
    *,
    sample: int | None = None,
    again: bool = False,
    announce: Callable[[], None] | None = None,
) -> bool:
    """Label every feedback turn of `conversations` and write `labels/<name>`.

    If the table exists and only the thresholds differ, the labels are decided anew from the scores in it, and the
    judge is not asked again.

    Args:
        workspace: holds `conversations`.
        judge: gives scores, items and reasons.
        thresholds: the scores from which on a turn counts as SAT or DSAT; ignored for a judge without a rubric.
        name: name of the label table; by default the kind of the judge.
        sample: label only this many conversations, and write `labels/<name>-sample`. Their ids alone decide which
            ones are drawn, so a larger sample contains the smaller one. If an earlier version of this toolkit drew
            the sample, its conversations stay in it, and a warning on stderr says so.
        again: ask once more for the turns that have no label, although the table exists.
        announce: called right before the judge is asked, if it is asked at all; prints what that will cost.

    Returns:
        False if the same labels existed already.

    Raises:
        UserError: the name is reserved, or is that of a table that the judge reads.
        AccountingError: the judge did not answer each feedback turn once and in order.
    """
    if name is not None and name.endswith(f"-{SAMPLE_STAGE}"):
        raise UserError(
            f"NAME={name}: this ending is reserved for labels of a sample (SAMPLE=). Choose another name."
        )
    if name is not None and name.startswith(HUMAN_TABLE_PREFIX):
        raise UserError(
            f"NAME={name}: this beginning is reserved for the labels of `make review`. Choose another name."
        )
    output = name_label_table(name or judge.name.split(":", 1)[0], sample)
    if output in judge.inputs:
        raise UserError(f"{output} is what the judge {judge.name} reads: choose another name for its labels.")
    rubric = judge.rubric.hash if judge.rubric else None
    drawn = None if sample is None else choose_sample(workspace, output, sample)
    options = {
        "judge": judge.name,
        "rubric": rubric,
        "judge_options": dict(judge.options),
        "thresholds": thresholds.model_dump() if judge.rubric else None,
        **(drawn.options() if drawn else {}),
    }
    inputs = [TableName.CONVERSATIONS, *judge.inputs]
    change_items = judge.rubric.change_items if judge.rubric else None

    def build(outputs: Mapping[str, Output]) -> None:
        out, counts = outputs[output], Counter[str]()
        table = out.table(LABEL_ROWS)
        decide_only = judge.rubric is not None and not again
        earlier = _find_reusable_scores(workspace, output, options, inputs) if decide_only else None
        if earlier is None:
            if announce is not None:
                announce()
            out.rows_in = 0
            for expected, judged in _ask_judge(workspace, judge, drawn):
                _check_complete(judge.name, expected, judged)
                out.rows_in += len(expected)
                rows = _decide_labels(judged.rows, thresholds, change_items)
                counts.update(rows["label"].to_pylist())
                table.write(rows)
                out.drop([_make_dropped_row(turn) for turn in judged.unlabelled], DROPPED)
            out.made_by = {"judge": judge.name, "rubric": rubric, **judge.report()}
        else:
            out.rows_in = earlier.rows_in
            for batch in workspace.batches(output):
                rows = _decide_labels(pa.Table.from_batches([batch]), thresholds, change_items)
                counts.update(rows["label"].to_pylist())
                table.write(rows)
            copy_dropped(workspace, output, out)
            out.made_by = {**earlier.made_by, "scores": "kept: only the thresholds changed"}
        out.results = {value: counts[value] for value in LABELS}

    stage = SAMPLE_STAGE if sample else LABEL_STAGE
    made = workspace.run(stage, [output], build, options=options, inputs=inputs, again=again)
    if warning := describe_earlier_sample(workspace, output):
        print(f"{LABEL_STAGE}: {warning}", file=sys.stderr)
    return made


def _ask_judge(
    workspace: Workspace, judge: Judge, sample: Sample | None
) -> Iterator[tuple[list[tuple[str, int]], JudgedBatch]]:
    """Yield for each batch the keys of its feedback turns and the judge's answer; the judge may read batches ahead."""
    waiting: list[list[tuple[str, int]]] = []  # keys of each batch that has no answer yet
    sizes: list[int] = []  # conversations that were read for each of these batches
    total = workspace.require(TableName.CONVERSATIONS).rows_out

    def batches() -> Iterator[pa.RecordBatch]:
        for rows, batch in iter_sampled_conversations(
            workspace, CONVERSATION_COLUMNS, _BATCH_CONVERSATIONS, sample
        ):
            sizes.append(rows)
            waiting.append(list_feedback_keys(batch))
            yield batch

    with tqdm(total=total, desc=f"label {judge.name}", unit=" conv", mininterval=0.5, file=sys.stderr) as bar:
        for judged in judge.judge(batches()):
            if not waiting:
                raise AccountingError(f"The judge {judge.name} gave more answers than it was asked for.")
            yield waiting.pop(0), judged
            bar.update(sizes.pop(0))
    if waiting:
        raise AccountingError(
            f"The judge {judge.name} left {len(waiting)} batches of conversations unanswered."
        )


def _check_complete(judge: str, expected: list[tuple[str, int]], judged: JudgedBatch) -> None:
    """Raise AccountingError unless the answer has exactly the expected turns, each once, the labelled ones in order."""
    labelled = list(
        zip(judged.rows["conversation_id"].to_pylist(), judged.rows["turn"].to_pylist(), strict=True)
    )
    left_out = {(turn.conversation_id, turn.turn) for turn in judged.unlabelled}
    complete = len(labelled) + len(judged.unlabelled) == len(expected) == len(labelled) + len(left_out)
    if complete and labelled == [key for key in expected if key not in left_out]:
        return
    given = Counter([*labelled, *((turn.conversation_id, turn.turn) for turn in judged.unlabelled)])
    missing = [key for key in expected if key not in given]
    surplus = [key for key, times in given.items() if times > 1 or key not in set(expected)]
    raise AccountingError(
        f"The judge {judge} did not answer each feedback turn once and in order: {len(missing)} missing "
        f"{missing[:3]}, {len(surplus)} doubled or unknown {surplus[:3]}. Nothing was written."
    )


def _decide_labels(rows: pa.Table, thresholds: Thresholds, change_items: Collection[str] | None) -> pa.Table:
    """Return the rows with `label` decided by the thresholds.

    Without `change_items` (a judge without a rubric) the labels must be in the rows already and are only checked.
    """
    if change_items is None:
        bad = sorted({str(value) for value in rows["label"].unique().to_pylist() if value not in LABELS})
        if bad:
            raise UserError(f"labels must be one of {', '.join(LABELS)}; found {', '.join(bad)}.")
        return rows.cast(LABEL_ROWS)
    changes, items = frozenset(change_items), rows["items"].combine_chunks()
    labels = [
        decide_label(sat, dsat, _iter_item_names(items, row), thresholds, changes)
        for row, (sat, dsat) in enumerate(
            zip(rows["sat_score"].to_pylist(), rows["dsat_score"].to_pylist(), strict=True)
        )
    ]
    at = rows.schema.get_field_index("label")
    return rows.set_column(at, LABEL_ROWS.field("label"), pa.array(labels, pa.string())).cast(LABEL_ROWS)


def _iter_item_names(items: pa.ListArray, row: int) -> Iterator[str]:
    """Yield the item names of a row. The row is read only when a name is asked for, which is rare."""
    yield from (item["name"] for item in items[row].as_py() or ())


def _make_dropped_row(turn: UnlabelledTurn) -> dict[str, Any]:
    return {
        "conversation_id": turn.conversation_id,
        "turn": turn.turn,
        "reason": turn.reason,
        "detail": turn.detail,
    }


def _find_reusable_scores(
    workspace: Workspace, output: str, options: dict[str, Any], inputs: list[str]
) -> Manifest | None:
    """Return the manifest of the existing table if only its thresholds differ from the wanted ones, else None."""
    manifest = workspace.manifest(output)
    if manifest is None or {**manifest.options, "thresholds": None} != {**options, "thresholds": None}:
        return None
    same = manifest.inputs == {name: workspace.require(name).digest for name in inputs}
    return manifest if same else None
