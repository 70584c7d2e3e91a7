"""The conversations that a rubric is learned from: each with its thumb, at most one feedback of each.

They come from files of chats with thumbs, or from the workspace's conversations with a table of labels, whose
SAT and DSAT turns stand for thumbs. Of many, those whose keys' hashes come first are drawn. It asks no model.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from drift_data.chats.order import RUBRIC, rank_as_number
from drift_data.chats.safe_text import visible
from drift_data.chats.turns import Messages
from drift_data.judge.base import CONVERSATION_COLUMNS
from drift_data.schema import DSAT, SAT, TableName
from drift_data.sources.chat import MESSAGES_KEYS, plain_messages
from drift_data.sources.fields import first_of, storable, text
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import object_rows
from drift_data.sources.rows import SetAside
from drift_data.workspace import UserError, Workspace

THUMB: Final = "thumb"
TURN: Final = "thumb_turn"
ACCEPTED: Final = '"up", 1 or true; "down", -1 or false'
_THUMBS: Final = {"up": SAT, "down": DSAT}
_ID_KEYS: Final = ("conversation_id", "id")
_KEY: Final = 16  # hex digits, of a chat without an id
_BATCH: Final = 1_000  # conversations

Payload = TypeVar("Payload")
Drop = Callable[[Mapping[str, Any]], None]  # takes a row of DROPPED


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation and how it pleased."""

    conversation_id: str
    turn: int | None  # index of the last message that is read; None: all are
    label: str  # SAT | DSAT
    messages: Messages  # up to that turn


@dataclass(frozen=True, slots=True)
class Drawn:
    """The examples of both labels in the order in which they are read, and how many there were to draw from."""

    examples: Sequence[Example]
    available: Mapping[str, int]  # by label; a conversation with several turns counts with each
    unmarked: int = 0  # rows without a thumb
    unreadable: int = 0  # rows that were dropped


class _Draw(Generic[Payload]):
    """Keeps, for each label, the conversations whose hashes come first; each conversation once."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        # the last of those kept is at the top: ranks are negative
        self._kept: dict[str, list[tuple[int, str, Payload]]] = {SAT: [], DSAT: []}
        self._names: set[str] = set()
        self.offered: Counter[str] = Counter()

    def offer(self, name: str, label: str, payload: Payload) -> None:
        self.offered[label] += 1
        if name in self._names:
            return
        kept = self._kept[label]
        entry = (-_rank(self._seed, name), name, payload)
        self._names.add(name)
        if len(kept) < self._size:
            heapq.heappush(kept, entry)
        else:
            self._names.discard(heapq.heappushpop(kept, entry)[1])

    def result(self, label: str) -> list[tuple[str, Payload]]:
        """Return what was kept, the first hash first."""
        return [(name, payload) for _, name, payload in sorted(self._kept[label], key=lambda e: -e[0])]


def _rank(seed: int, name: str) -> int:
    """Return where a conversation stands in the order of drawing."""
    return rank_as_number(f"{seed}\0{name}", RUBRIC)


def from_files(files: Sequence[RawFile], size: int, seed: int, drop: Drop) -> Drawn:
    """Draw from chats with thumbs; memory is bounded by what is drawn.

    A row is an object with `messages` (OpenAI-style, or ShareGPT's) and `thumb`, one of ACCEPTED; without a
    thumb it is passed over. `thumb_turn` is the index in `messages` of the message that the thumb belongs to,
    the user's feedback: nothing after it is read. `conversation_id` or `id` name the chat, else its content;
    of several rows of one chat the first counts.

    Args:
        files: JSON Lines, JSON arrays or Parquet.
        size: examples of each label, at most.
        seed: decides which.
        drop: takes the rows that cannot be read.

    Raises:
        UserError: a thumb or a turn is none of those accepted, or no row has a thumb.
    """
    draw, rows = _Draw[tuple[int | None, Messages]](size, seed), Counter[str]()
    for file in files:
        for row in object_rows(file, Tally(), TableName.CONVERSATIONS):
            rows["all"] += 1
            if isinstance(row, SetAside):
                rows["unreadable"] += 1
                drop(_dropped(row.location, row.reason, row.excerpt))
                continue
            position, value = row
            where = f"{file.name}, row {position + 1}"
            label = _label(value.get(THUMB), where)
            if label is None:
                rows["unmarked"] += 1
                continue
            turn, messages, problem = _read(value, where)
            name = _name(value, messages)
            if problem is not None:
                rows["unreadable"] += 1
                drop(_dropped(name or where, problem, where))
            else:
                draw.offer(name, label, (turn, messages))
    if not draw.offered:
        raise UserError(
            f"INPUT has no conversation with a thumb: {rows['all']:,} rows, {rows['unmarked']:,} of them without `{THUMB}`. "
            f"Each conversation needs `messages` and `{THUMB}` ({ACCEPTED}); use LABELS= for conversations of "
            "the workspace that have labels."
        )
    examples = [
        Example(name, turn, label, messages)
        for label in (SAT, DSAT)
        for name, (turn, messages) in draw.result(label)
    ]
    return Drawn(examples, dict(draw.offered), rows["unmarked"], rows["unreadable"])


def from_labels(workspace: Workspace, labels: str, size: int, seed: int) -> Drawn:
    """Draw from the workspace's conversations: SAT and DSAT turns stand for thumbs, one turn a conversation.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the label table, such as "labels/simulated".
        size: examples of each label, at most.
        seed: decides which.

    Raises:
        UserError: no turn is labelled SAT or DSAT, or the labels are of other conversations.
    """
    table = workspace.read(labels, ["conversation_id", "turn", "label"])
    table = table.filter(pc.is_in(table["label"], pa.array([SAT, DSAT])))
    rows = [(row["conversation_id"], row["turn"], row["label"]) for row in table.to_pylist()]
    # By hash, too: else an early DSAT would always win over the SAT that follows it.
    rows.sort(key=lambda row: _rank(seed, f"{row[0]}\0{row[1]}"))
    draw = _Draw[int](size, seed)
    for name, turn, label in rows:
        draw.offer(name, label, turn)
    if not draw.offered:
        raise UserError(f"{labels} has no SAT or DSAT turn: there is nothing to learn from.")
    wanted = {name: (turn, label) for label in (SAT, DSAT) for name, turn in draw.result(label)}
    found = dict(_conversations(workspace, pa.array(wanted)))
    if lost := wanted.keys() - found.keys():
        raise UserError(
            f"{labels} has labels of {len(lost):,} conversations that are not in this workspace, such as "
            f"{visible(min(lost), 100)}: it was made of other conversations. Make it again, or give another LABELS=."
        )
    examples = [Example(name, turn, label, found[name][: turn + 1]) for name, (turn, label) in wanted.items()]
    return Drawn(examples, dict(draw.offered))


def _conversations(workspace: Workspace, names: pa.Array) -> Iterator[tuple[str, Messages]]:
    for batch in workspace.batches(TableName.CONVERSATIONS, CONVERSATION_COLUMNS, _BATCH):
        for row in batch.filter(pc.is_in(batch["conversation_id"], names)).to_pylist():
            yield row["conversation_id"], row["messages"]


def _label(value: Any, where: str) -> str | None:
    if value is None:
        return None
    label = _THUMBS.get(value.strip().lower()) if isinstance(value, str) else None
    if isinstance(value, bool):
        label = SAT if value else DSAT
    elif isinstance(value, (int, float)):
        label = SAT if value == 1 else DSAT if value == -1 else None
    if label is None:
        shown = visible(json.dumps(value, ensure_ascii=False, default=str), 100)
        raise UserError(f"{where}: {shown} is no `{THUMB}`. Accepted are {ACCEPTED}; null is no thumb.")
    return label


def _read(row: Mapping[str, Any], where: str) -> tuple[int | None, Messages, str | None]:
    """Return the thumb's turn, the messages up to it, and why they are unusable, or None."""
    raw, turn = first_of(row, *MESSAGES_KEYS), row.get(TURN)
    if turn is not None and isinstance(raw, list):
        if isinstance(turn, bool) or not isinstance(turn, int) or not 0 <= turn < len(raw):
            shown = visible(json.dumps(turn, ensure_ascii=False, default=str), 100)
            raise UserError(
                f"{where}: {shown} is no `{TURN}`. It is the index in `messages`, from 0, of the message that "
                f"the thumb belongs to: here 0 to {len(raw) - 1}."
            )
        raw = raw[: turn + 1]
    messages, problem = plain_messages(raw)
    read = [
        {"role": storable(m["role"] or ""), "content": storable(m["content"] or "")} for m in messages or ()
    ]
    if problem is None and not any(m["role"] == "user" and m["content"].strip() for m in read):
        problem = "no_user_message"
    return turn, read, problem


def _name(row: Mapping[str, Any], messages: Messages) -> str:
    given = text(first_of(row, *_ID_KEYS))
    if given:
        return storable(given)
    content = json.dumps(list(messages), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_KEY] if messages else ""


def _dropped(name: str, reason: str, detail: str | None) -> dict[str, Any]:
    return {"conversation_id": name, "turn": None, "reason": reason, "detail": detail}
