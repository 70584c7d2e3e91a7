"""The label stage: conversations × judge → labels/<judge>. It knows no judge, only what one has to answer.

Labels and dropped turns together are exactly the feedback turns, each once; a judge that breaks this stops
the stage.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from drift_data.judge.base import CONVERSATION_COLUMNS, Judge, Judged, Unlabelled, feedback_keys
from drift_data.judge.label_rule import Thresholds, decide
from drift_data.labels.reviewer import PERSON
from drift_data.labels.sample import Sample, choose_sample, conversation_batches, describe_earlier_sample
from drift_data.labels.tables import SAMPLE, STAGE, copy_dropped, label_table
from drift_data.schema import DROPPED, LABEL_ROWS, LABELS, TableName
from drift_data.workspace import AccountingError, Manifest, Output, UserError, Workspace

_BATCH = 1_000  # conversations


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

    When the table is there and only the thresholds differ, the labels are decided anew from its scores: the
    judge is not asked again.

    Args:
        workspace: holds `conversations`.
        judge: gives scores, items and reasons.
        thresholds: turn scores into labels; ignored by a judge without a rubric.
        name: of the table; by default the kind of the judge.
        sample: label this many conversations only, and write `labels/<name>-sample`. Which ones depends on
            their ids alone, so a larger sample holds the smaller one. A sample that an earlier version drew goes on
            in it, and is told.
        again: ask for the turns without a label once more, although the table is there.
        announce: called before the judge is asked, if it will be: to say what that will take.

    Returns:
        False when the same labels were there already.
    """
    if name is not None and name.endswith(f"-{SAMPLE}"):
        raise UserError(f"NAME={name}: this ending is kept for labels of a sample (SAMPLE=). Choose another.")
    if name is not None and name.startswith(PERSON):
        raise UserError(
            f"NAME={name}: this beginning is kept for the labels of `make review`. Choose another."
        )
    output = label_table(name or judge.name.split(":", 1)[0], sample)
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
        earlier = _with_other_thresholds(workspace, output, options, inputs) if decide_only else None
        if earlier is None:
            if announce is not None:
                announce()
            out.rows_in = 0
            for expected, judged in _answers(workspace, judge, drawn):
                _check(judge.name, expected, judged)
                out.rows_in += len(expected)
                rows = _decided(judged.rows, thresholds, change_items)
                counts.update(rows["label"].to_pylist())
                table.write(rows)
                out.drop([_dropped_row(turn) for turn in judged.unlabelled], DROPPED)
            out.made_by = {"judge": judge.name, "rubric": rubric, **judge.report()}
        else:
            out.rows_in = earlier.rows_in
            for batch in workspace.batches(output):
                rows = _decided(pa.Table.from_batches([batch]), thresholds, change_items)
                counts.update(rows["label"].to_pylist())
                table.write(rows)
            copy_dropped(workspace, output, out)
            out.made_by = {**earlier.made_by, "scores": "kept: only the thresholds changed"}
        out.results = {value: counts[value] for value in LABELS}

    stage = SAMPLE if sample else STAGE
    made = workspace.run(stage, [output], build, options=options, inputs=inputs, again=again)
    if warning := describe_earlier_sample(workspace, output):
        print(f"{STAGE}: {warning}", file=sys.stderr)
    return made


def _answers(
    workspace: Workspace, judge: Judge, sample: Sample | None
) -> Iterator[tuple[list[tuple[str, int]], Judged]]:
    """Yield the feedback turns of each batch with the judge's answer to it; it may read batches ahead."""
    waiting: list[list[tuple[str, int]]] = []
    total = workspace.require(TableName.CONVERSATIONS).rows_out

    def batches() -> Iterator[pa.RecordBatch]:
        for rows, batch in conversation_batches(workspace, CONVERSATION_COLUMNS, _BATCH, sample):
            sizes.append(rows)
            waiting.append(feedback_keys(batch))
            yield batch

    sizes: list[int] = []
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


def _check(judge: str, expected: list[tuple[str, int]], judged: Judged) -> None:
    """Raise unless the answer holds exactly the expected turns, each once, the labelled ones in order."""
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


def _decided(rows: pa.Table, thresholds: Thresholds, change_items: Collection[str] | None) -> pa.Table:
    """Fill `label` by the thresholds; with `change_items` None the labels must be there."""
    if change_items is None:
        bad = sorted({str(value) for value in rows["label"].unique().to_pylist() if value not in LABELS})
        if bad:
            raise UserError(f"labels must be one of {', '.join(LABELS)}; found {', '.join(bad)}.")
        return rows.cast(LABEL_ROWS)
    changes, items = frozenset(change_items), rows["items"].combine_chunks()
    labels = [
        decide(sat, dsat, _names(items, row), thresholds, changes)
        for row, (sat, dsat) in enumerate(
            zip(rows["sat_score"].to_pylist(), rows["dsat_score"].to_pylist(), strict=True)
        )
    ]
    at = rows.schema.get_field_index("label")
    return rows.set_column(at, LABEL_ROWS.field("label"), pa.array(labels, pa.string())).cast(LABEL_ROWS)


def _names(items: pa.ListArray, row: int) -> Iterator[str]:
    """Yield a row's item names; nothing is read before it is asked for, which is rare."""
    yield from (item["name"] for item in items[row].as_py() or ())


def _dropped_row(turn: Unlabelled) -> dict[str, Any]:
    return {
        "conversation_id": turn.conversation_id,
        "turn": turn.turn,
        "reason": turn.reason,
        "detail": turn.detail,
    }


def _with_other_thresholds(
    workspace: Workspace, output: str, options: dict[str, Any], inputs: list[str]
) -> Manifest | None:
    """Return the manifest of the table that is there if it differs from the wanted in thresholds only."""
    manifest = workspace.manifest(output)
    if manifest is None or {**manifest.options, "thresholds": None} != {**options, "thresholds": None}:
        return None
    same = manifest.inputs == {name: workspace.require(name).digest for name in inputs}
    return manifest if same else None
