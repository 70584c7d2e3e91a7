"""Reads WildFeedback's JSON files: annotated conversations with their labels, and preference pairs.

`sat_dsat_annotation.json` has one row for each utterance and no conversation id; a conversation begins where
`UtteranceId` is 0. The flags on a User row judge the Agent reply before it. The flags on an Agent row repeat those of
the row before and are not read. `wildfeedback.json` has pairs. `user_preference.json` has neither and is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from drift_data.schema import DSAT, NEUTRAL, SAT, TableName, make_label_row
from drift_data.sources.fields import find_first_value, replace_surrogates
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import check_keys, iter_objects, read_first_object
from drift_data.sources.rows import (
    ChatRow,
    Piece,
    ReadyExample,
    SetAside,
    cut_excerpt,
    gather_chats,
    gather_examples,
)
from drift_data.workspace import AccountingError

WILDFEEDBACK_LABELS: Final = "labels/wildfeedback"
WILDFEEDBACK_JUDGE: Final = "dataset:wildfeedback"
WILDFEEDBACK_RUBRIC: Final = "wildfeedback"
FLAG_STRENGTH: Final = 10  # strength of an item whose flag is true (1 to 10); the flags have no degrees

_ANNOTATION_KEYS = (
    ("UtteranceId",),
    ("Role",),
    ("Content",),
    ("Satisfaction",),
    ("Disatisfaction", "Dissatisfaction"),
)
_PAIR_KEYS = (("conversations",), ("chosen",), ("rejected",))
# Number of rows whose keys are looked at: the first utterance judges no reply and may lack the flags.
_ROWS_TO_SEE_ALL_KEYS = 100
_ROLES = {"User": "user", "Agent": "assistant"}
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_ASKS_FOR_CHANGE = re.compile(
    r"\b(re-?(do|write|wrote|vis|phras|gener|try|peat|make)|chang|correct|fix|improv|modif|adjust|amend|edit"
    r"|rectif|expand|elaborat|shorten|lengthen|clarif|replac|again|another version|instead"
    r"|more (detail|specific|inform)|error|mistake|wrong|inaccura|incorrect|missing|ignor"
    r"|did ?n[o']t (follow|address|answer))",
    re.IGNORECASE,
)


def list_tables(files: Sequence[RawFile]) -> tuple[str, ...]:
    """Return the names of the tables that these files give."""
    kinds = {kind for kind, _ in _sort_files(files)}
    found: tuple[str, ...] = (TableName.CONVERSATIONS, WILDFEEDBACK_LABELS) if "annotation" in kinds else ()
    return (*found, TableName.PREFERENCES) if "pairs" in kinds else found


def read(files: Sequence[RawFile], tally: Tally) -> Iterator[Piece]:
    """Stream the conversations with their labels, then the pairs."""
    for kind, file in _sort_files(files):
        if kind == "annotation":
            yield from gather_chats(file.name, _iter_conversations(file, tally), labelled=True)
        elif kind == "pairs":
            yield from gather_examples(TableName.PREFERENCES, file.name, _iter_pairs(file, tally))
        else:
            print(f"convert: {file.name} is left out: it holds {kind}.", file=sys.stderr)
            tally.notes["files_left_out"] = {file.name: kind}


def _sort_files(files: Sequence[RawFile]) -> list[tuple[str, RawFile]]:
    """Return each file with its kind, by the keys of its first rows: "annotation", "pairs", or what else it holds.

    Raises:
        UserError: no file has a known layout, or a file other than user_preference.json has an unknown one.
    """
    found: list[tuple[str, RawFile]] = []
    unknown: list[tuple[RawFile, Mapping[str, Any]]] = []
    for file in files:
        row: Mapping[str, Any] = read_first_object(file, _ROWS_TO_SEE_ALL_KEYS) or {}
        if all(any(key in row for key in group) for group in _PAIR_KEYS):
            found.append(("pairs", file))
        elif "UtteranceId" in row:
            check_keys(file, row, _ANNOTATION_KEYS, "WildFeedback's annotation")
            found.append(("annotation", file))
        else:
            unknown.append((file, row))
    for file, row in unknown:
        if not found or "user_preference" not in file.name:
            check_keys(file, row, _ANNOTATION_KEYS, "WildFeedback's annotation")
        found.append((f"neither utterances nor pairs, but {', '.join(row)[:500]}", file))
    return found


def _iter_conversations(file: RawFile, tally: Tally) -> Iterator[ChatRow]:
    """Yield the conversations of an annotation file with their labels.

    Raises:
        AccountingError: an utterance that was read is in no conversation.
    """
    utterances, before = 0, tally.rows["utterances"]
    for start, rows, problem in _group_utterances(file, tally):
        utterances += len(rows)
        messages = [{"role": _ROLES.get(str(row.get("Role"))), "content": row.get("Content")} for row in rows]
        if not all(isinstance(message["content"], str | None) for message in messages):
            messages, problem = [], problem or "content_not_text"
        labels: list[dict[str, Any]] = []
        unlabelled: dict[int, str] = {}
        for turn in range(1, len(messages)):
            if messages[turn]["role"] == "user" and messages[turn - 1]["role"] == "assistant":
                label = read_label(rows[turn], turn)
                if isinstance(label, str):
                    unlabelled[turn] = label
                else:
                    labels.append(label)
        yield ChatRow(start, {"messages": messages}, problem, labels, unlabelled)
    if utterances != tally.rows["utterances"] - before:
        read_rows = tally.rows["utterances"] - before
        raise AccountingError(f"{file.name}: {read_rows} utterances read, {utterances} in conversations.")
    tally.notes["utterances"] = tally.rows["utterances"]


def _group_utterances(
    file: RawFile, tally: Tally
) -> Iterator[tuple[int, list[Mapping[str, Any]], str | None]]:
    """Yield (position of the first row, rows, problem) of each conversation."""
    start, last = 0, -1
    rows: list[Mapping[str, Any]] = []
    problem: str | None = None
    for position, row in enumerate(iter_objects(file, tally, "utterances")):
        value: Mapping[str, Any] = {} if isinstance(row, SetAside) else row[1]
        number = value.get("UtteranceId")
        if not isinstance(number, int) or isinstance(number, bool):
            broken = row.reason if isinstance(row, SetAside) else "no_utterance_id"
            begins = False
        else:
            broken = None
            begins = number <= last  # the number is 0, or the conversation's first utterances are missing
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


def read_label(row: Mapping[str, Any], turn: int) -> dict[str, Any] | str:
    """Return the label row that a User row gives for the reply before it, or the reason why it gives none.

    If both flags are true, the label is DSAT when the justification of the dissatisfaction says that the user asks for a
    change of the reply (by a list of words: revise, correct, more detail, …), else NEUTRAL. Both items are kept.
    """
    sat, dsat = row.get("Satisfaction"), find_first_value(row, *_ANNOTATION_KEYS[4])
    if any(flag is not None and not isinstance(flag, bool) for flag in (sat, dsat)):
        return "flag_not_boolean"
    if not (sat or dsat) and (sat is None or dsat is None):
        return "no_flags"
    reasons = {SAT: _find_justification(row, "satisf"), DSAT: _find_justification(row, "dis")}
    if sat and dsat:
        label = DSAT if _ASKS_FOR_CHANGE.search(reasons[DSAT] or "") else NEUTRAL
    else:
        label = SAT if sat else DSAT if dsat else NEUTRAL
    sides = [side for side, flag in ((SAT, sat), (DSAT, dsat)) if flag]
    names = {SAT: "Satisfaction", DSAT: "Dissatisfaction"}
    return make_label_row(
        None,
        turn,
        label,
        sat_score=float(FLAG_STRENGTH if sat else 0),
        dsat_score=float(FLAG_STRENGTH if dsat else 0),
        items=[(names[side], side, FLAG_STRENGTH) for side in sides],
        reason=" · ".join(text for side in sides if (text := reasons[side])) or None,
        judge=WILDFEEDBACK_JUDGE,
        rubric=WILDFEEDBACK_RUBRIC,
    )


def _find_justification(row: Mapping[str, Any], beginning: str) -> str | None:
    """Return the text beside a flag, from the key with this beginning; the data set misspells the key in several ways."""
    for key, value in row.items():
        name = key.lower()
        if name.startswith(beginning) and "justif" in name and isinstance(value, str) and value.strip():
            return replace_surrogates(value)
    return None


def _iter_pairs(file: RawFile, tally: Tally) -> Iterator[ReadyExample | SetAside]:
    """Yield every row of a file as a pair."""
    for row in iter_objects(file, tally, TableName.PREFERENCES):
        if isinstance(row, SetAside):
            yield row
            continue
        position, value = row
        prompt = _read_turns(value.get("conversations"))
        chosen, rejected = (
            _read_turns(_wrap_in_list(value.get(key)), "gpt") for key in ("chosen", "rejected")
        )
        if prompt is None or chosen is None or rejected is None:
            yield ReadyExample(position, None, "malformed_messages", cut_excerpt(value))
        else:
            yield ReadyExample(position, {"prompt": prompt, "chosen": chosen, "rejected": rejected})


def _wrap_in_list(value: Any) -> Any:
    """Return a list unchanged, and any other value as a list of one."""
    return value if isinstance(value, list) else [value]


def _read_turns(value: Any, speaker: str | None = None) -> list[dict[str, Any]] | None:
    """Return {from, value} turns as messages, or None if they are malformed; `speaker` is used where `from` is missing."""
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
