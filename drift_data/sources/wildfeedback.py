"""WildFeedback's three JSON files: annotated conversations with their labels, and preference pairs.

`sat_dsat_annotation.json` has one row an utterance and no conversation id: a conversation begins where
`UtteranceId` is 0. The flags on a User row judge the Agent reply before it; those on Agent rows repeat the
row before and are not read. `wildfeedback.json` has pairs; `user_preference.json`, with neither, is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from drift_data.schema import DSAT, NEUTRAL, SAT, TableName, make_label_row
from drift_data.sources.fields import first_of, storable
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import check_keys, first_object, object_rows
from drift_data.sources.rows import (
    ChatRow,
    Example,
    Piece,
    SetAside,
    chats_from_rows,
    examples_from_rows,
    excerpt,
)
from drift_data.workspace import AccountingError

LABELS_TABLE: Final = "labels/wildfeedback"
JUDGE: Final = "dataset:wildfeedback"
RUBRIC: Final = "wildfeedback"
STRENGTH: Final = 10  # of an item whose flag is true: the flags know no degrees

_ANNOTATION = (
    ("UtteranceId",),
    ("Role",),
    ("Content",),
    ("Satisfaction",),
    ("Disatisfaction", "Dissatisfaction"),
)
_PAIRS = (("conversations",), ("chosen",), ("rejected",))
_ROWS_WITH_ALL_KEYS = 100  # a first utterance judges no reply and may come without flags
_ROLES = {"User": "user", "Agent": "assistant"}
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_CHANGE = re.compile(
    r"\b(re-?(do|write|wrote|vis|phras|gener|try|peat|make)|chang|correct|fix|improv|modif|adjust|amend|edit"
    r"|rectif|expand|elaborat|shorten|lengthen|clarif|replac|again|another version|instead"
    r"|more (detail|specific|inform)|error|mistake|wrong|inaccura|incorrect|missing|ignor"
    r"|did ?n[o']t (follow|address|answer))",
    re.IGNORECASE,
)


def tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the tables that these files give."""
    kinds = {kind for kind, _ in _kinds(files)}
    found: tuple[str, ...] = (TableName.CONVERSATIONS, LABELS_TABLE) if "annotation" in kinds else ()
    return (*found, TableName.PREFERENCES) if "pairs" in kinds else found


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the conversations with their labels, then the pairs."""
    for kind, file in _kinds(files):
        if kind == "annotation":
            yield from chats_from_rows(file.name, _conversations(file, tally), labelled=True)
        elif kind == "pairs":
            yield from examples_from_rows(TableName.PREFERENCES, file.name, _pairs(file, tally))
        else:
            print(f"convert: {file.name} is left out: it holds {kind}.", file=sys.stderr)
            tally.notes["files_left_out"] = {file.name: kind}


def _kinds(files: Sequence[RawFile]) -> list[tuple[str, RawFile]]:
    """Tell the files apart by the keys of their first rows: "annotation", "pairs", or what else they hold.

    Raises:
        UserError: none of them, or one that is not user_preference.json, has a known layout.
    """
    found: list[tuple[str, RawFile]] = []
    unknown: list[tuple[RawFile, Mapping[str, Any]]] = []
    for file in files:
        row: Mapping[str, Any] = first_object(file, _ROWS_WITH_ALL_KEYS) or {}
        if all(any(key in row for key in group) for group in _PAIRS):
            found.append(("pairs", file))
        elif "UtteranceId" in row:
            check_keys(file, row, _ANNOTATION, "WildFeedback's annotation")
            found.append(("annotation", file))
        else:
            unknown.append((file, row))
    for file, row in unknown:
        if not found or "user_preference" not in file.name:
            check_keys(file, row, _ANNOTATION, "WildFeedback's annotation")
        found.append((f"neither utterances nor pairs, but {', '.join(row)[:500]}", file))
    return found


def _conversations(file: RawFile, tally: Tally) -> Iterator[ChatRow]:
    """Group the utterances; count conversations where they begin, utterances where they end."""
    utterances, before = 0, tally.rows["utterances"]
    for start, rows, problem in _groups(file, tally):
        utterances += len(rows)
        messages = [{"role": _ROLES.get(str(row.get("Role"))), "content": row.get("Content")} for row in rows]
        if not all(isinstance(message["content"], str | None) for message in messages):
            messages, problem = [], problem or "content_not_text"
        labels: list[dict[str, Any]] = []
        unlabelled: dict[int, str] = {}
        for turn in range(1, len(messages)):
            if messages[turn]["role"] == "user" and messages[turn - 1]["role"] == "assistant":
                label = label_of(rows[turn], turn)
                if isinstance(label, str):
                    unlabelled[turn] = label
                else:
                    labels.append(label)
        yield ChatRow(start, {"messages": messages}, problem, labels, unlabelled)
    if utterances != tally.rows["utterances"] - before:
        read_rows = tally.rows["utterances"] - before
        raise AccountingError(f"{file.name}: {read_rows} utterances read, {utterances} in conversations.")
    tally.notes["utterances"] = tally.rows["utterances"]


def _groups(file: RawFile, tally: Tally) -> Iterator[tuple[int, list[Mapping[str, Any]], str | None]]:
    """Yield (position of the first row, rows, problem) of each conversation."""
    start, last = 0, -1
    rows: list[Mapping[str, Any]] = []
    problem: str | None = None
    for position, row in enumerate(object_rows(file, tally, "utterances")):
        value: Mapping[str, Any] = {} if isinstance(row, SetAside) else row[1]
        number = value.get("UtteranceId")
        if not isinstance(number, int) or isinstance(number, bool):
            broken = row.reason if isinstance(row, SetAside) else "no_utterance_id"
            begins = False
        else:
            broken = None
            begins = number <= last  # 0, or the beginning is lost
            last = number
        if begins or not rows:
            if rows:
                yield start, rows, problem
            start, rows = position, []
            problem = None if number == 0 or broken else "conversation_without_beginning"
            tally.rows[TableName.CONVERSATIONS] += 1
        rows.append(value)
        problem = problem or broken
    if rows:
        yield start, rows, problem


def label_of(row: Mapping[str, Any], turn: int) -> dict[str, Any] | str:
    """Return the label row that a User row gives for the reply before it, or why it gives none.

    Both flags true: DSAT when the justification of the dissatisfaction says that a change of the reply is
    asked for (a list of words: revise, correct, more detail, …), else NEUTRAL; both items are kept.
    """
    sat, dsat = row.get("Satisfaction"), first_of(row, *_ANNOTATION[4])
    if any(flag is not None and not isinstance(flag, bool) for flag in (sat, dsat)):
        return "flag_not_boolean"
    if not (sat or dsat) and (sat is None or dsat is None):
        return "no_flags"
    reasons = {SAT: _justification(row, "satisf"), DSAT: _justification(row, "dis")}
    if sat and dsat:
        label = DSAT if _CHANGE.search(reasons[DSAT] or "") else NEUTRAL
    else:
        label = SAT if sat else DSAT if dsat else NEUTRAL
    sides = [side for side, flag in ((SAT, sat), (DSAT, dsat)) if flag]
    names = {SAT: "Satisfaction", DSAT: "Dissatisfaction"}
    return make_label_row(
        None,
        turn,
        label,
        sat_score=float(STRENGTH if sat else 0),
        dsat_score=float(STRENGTH if dsat else 0),
        items=[(names[side], side, STRENGTH) for side in sides],
        reason=" · ".join(text for side in sides if (text := reasons[side])) or None,
        judge=JUDGE,
        rubric=RUBRIC,
    )


def _justification(row: Mapping[str, Any], beginning: str) -> str | None:
    """Return the text beside a flag; its key is misspelt, and not always the same way."""
    for key, value in row.items():
        name = key.lower()
        if name.startswith(beginning) and "justif" in name and isinstance(value, str) and value.strip():
            return storable(value)
    return None


def _pairs(file: RawFile, tally: Tally) -> Iterator[Example | SetAside]:
    for row in object_rows(file, tally, TableName.PREFERENCES):
        if isinstance(row, SetAside):
            yield row
            continue
        position, value = row
        prompt = _turns(value.get("conversations"))
        chosen, rejected = (_turns(_as_list(value.get(key)), "gpt") for key in ("chosen", "rejected"))
        if prompt is None or chosen is None or rejected is None:
            yield Example(position, None, "malformed_messages", excerpt(value))
        else:
            yield Example(position, {"prompt": prompt, "chosen": chosen, "rejected": rejected})


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _turns(value: Any, speaker: str | None = None) -> list[dict[str, Any]] | None:
    """Return {from, value} turns as messages; `speaker` is taken where `from` is missing."""
    if not isinstance(value, list):
        return None
    found = []
    for turn in value:
        if isinstance(turn, str) and speaker:
            turn = {"value": turn}
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
            return None
        found.append({"role": _SPEAKERS.get(str(turn.get("from") or speaker)), "content": turn["value"]})
    return found
