"""Draws the conversations that a rubric is learned from, each with a thumb for one of its turns.

The conversations come from files of chats with thumbs, or from the workspace together with a label table, whose SAT and
DSAT turns take the place of thumbs. If there are more than wanted, those whose ids have the lowest hashes are drawn.
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

from drift_data.chats.order import RUBRIC_DRAW, rank_as_number
from drift_data.chats.safe_text import escape_invisible
from drift_data.chats.turns import Messages
from drift_data.judge.base import CONVERSATION_COLUMNS
from drift_data.schema import DSAT, SAT, TableName
from drift_data.sources.chat import MESSAGES_KEYS, simplify_messages
from drift_data.sources.fields import find_first_value, parse_text, replace_surrogates
from drift_data.sources.inputs import RawFile, Tally
from drift_data.sources.objects import iter_objects
from drift_data.sources.rows import SetAside
from drift_data.workspace import UserError, Workspace

THUMB_FIELD: Final = "thumb"
THUMB_TURN_FIELD: Final = "thumb_turn"
ACCEPTED_THUMBS: Final = '"up", 1 or true; "down", -1 or false'
_THUMBS: Final = {"up": SAT, "down": DSAT}
_ID_FIELDS: Final = ("conversation_id", "id")
_KEY_LENGTH: Final = 16  # hex digits of the hash that names a chat without an id
_CONVERSATIONS_PER_BATCH: Final = 1_000

Payload = TypeVar("Payload")
Drop = Callable[[Mapping[str, Any]], None]  # takes a row of DROPPED


@dataclass(frozen=True, slots=True)
class RatedConversation:
    """One conversation and the thumb that its user gave."""

    conversation_id: str
    turn: int | None  # index of the last message that is read; None: all messages are read
    label: str  # SAT for a thumb up, DSAT for a thumb down
    messages: Messages  # up to that turn


@dataclass(frozen=True, slots=True)
class DrawnConversations:
    """The drawn conversations, those with a thumb up first, and how many there were to draw from."""

    examples: Sequence[RatedConversation]
    available: Mapping[str, int]  # label → thumbs to draw from; all thumbs of a conversation are counted
    unmarked: int = 0  # rows without a thumb
    unreadable: int = 0  # rows that were dropped because they cannot be read


class _Draw(Generic[Payload]):
    """Keeps, for each label, the conversations with the lowest hashes; each conversation once.

    Args:
        size: most conversations of each label.
        seed: part of the hash.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        # label → heap of (negative rank, name, payload): the highest rank is at the top, to be replaced first
        self._kept: dict[str, list[tuple[int, str, Payload]]] = {SAT: [], DSAT: []}
        self._kept_names: set[str] = set()
        self.offered: Counter[str] = Counter()

    def offer(self, name: str, label: str, payload: Payload) -> None:
        """Keep a conversation if its hash is among the lowest so far; ignore one that is kept already."""
        self.offered[label] += 1
        if name in self._kept_names:
            return
        kept = self._kept[label]
        entry = (-_rank_in_draw(self._seed, name), name, payload)
        self._kept_names.add(name)
        if len(kept) < self._size:
            heapq.heappush(kept, entry)
        else:
            self._kept_names.discard(heapq.heappushpop(kept, entry)[1])

    def list_kept(self, label: str) -> list[tuple[str, Payload]]:
        """Return names and payloads of what was kept, the lowest hash first."""
        return [(name, payload) for _, name, payload in sorted(self._kept[label], key=lambda e: -e[0])]


def _rank_in_draw(seed: int, name: str) -> int:
    """Return the hash of a conversation (or turn) by which it is drawn; the lowest are drawn first."""
    return rank_as_number(f"{seed}\0{name}", RUBRIC_DRAW)


def draw_from_files(files: Sequence[RawFile], size: int, seed: int, drop: Drop) -> DrawnConversations:
    """Draw from files of chats with thumbs. Memory holds only what is drawn.

    A row is an object with `messages` (OpenAI-style, or ShareGPT's) and `thumb`, one of ACCEPTED_THUMBS. A row
    without a thumb is skipped. `thumb_turn` is the index in `messages` of the user's feedback, to which the thumb
    belongs; messages after it are not read. `conversation_id` or `id` names the chat, else a hash of its content
    does. Of several rows of one chat, the first counts.

    Args:
        files: JSON Lines, JSON arrays or Parquet.
        size: most conversations of each label.
        seed: decides which are drawn.
        drop: takes the rows that cannot be read.

    Raises:
        UserError: a thumb or a turn is not one of those accepted, or no row has a thumb.
    """
    draw, rows = _Draw[tuple[int | None, Messages]](size, seed), Counter[str]()
    for file in files:
        for row in iter_objects(file, Tally(), TableName.CONVERSATIONS):
            rows["all"] += 1
            if isinstance(row, SetAside):
                rows["unreadable"] += 1
                drop(_make_dropped_row(row.location, row.reason, row.excerpt))
                continue
            position, value = row
            where = f"{file.name}, row {position + 1}"
            label = _read_thumb(value.get(THUMB_FIELD), where)
            if label is None:
                rows["unmarked"] += 1
                continue
            turn, messages, problem = _read_messages(value, where)
            name = _name_conversation(value, messages)
            if problem is not None:
                rows["unreadable"] += 1
                drop(_make_dropped_row(name or where, problem, where))
            else:
                draw.offer(name, label, (turn, messages))
    if not draw.offered:
        raise UserError(
            f"INPUT has no conversation with a thumb: {rows['all']:,} rows, {rows['unmarked']:,} of them without "
            f"`{THUMB_FIELD}`. Each conversation needs `messages` and `{THUMB_FIELD}` ({ACCEPTED_THUMBS}); use LABELS= "
            "for conversations of the workspace that have labels."
        )
    examples = [
        RatedConversation(name, turn, label, messages)
        for label in (SAT, DSAT)
        for name, (turn, messages) in draw.list_kept(label)
    ]
    return DrawnConversations(examples, dict(draw.offered), rows["unmarked"], rows["unreadable"])


def draw_from_labels(workspace: Workspace, labels: str, size: int, seed: int) -> DrawnConversations:
    """Draw from the workspace's conversations: SAT and DSAT turns take the place of thumbs, one turn a conversation.

    Args:
        workspace: holds `conversations` and the labels.
        labels: folder of the label table, such as "labels/simulated".
        size: most conversations of each label.
        seed: decides which are drawn.

    Raises:
        UserError: no turn is labelled SAT or DSAT, or the labels belong to other conversations.
    """
    table = workspace.read(labels, ["conversation_id", "turn", "label"])
    table = table.filter(pc.is_in(table["label"], pa.array([SAT, DSAT])))
    rows = [(row["conversation_id"], row["turn"], row["label"]) for row in table.to_pylist()]
    # Turns are ordered by hash, too: else an early DSAT turn would always win over the SAT turn that follows it.
    rows.sort(key=lambda row: _rank_in_draw(seed, f"{row[0]}\0{row[1]}"))
    draw = _Draw[int](size, seed)
    for name, turn, label in rows:
        draw.offer(name, label, turn)
    if not draw.offered:
        raise UserError(f"{labels} has no SAT or DSAT turn: there is nothing to learn from.")
    wanted = {name: (turn, label) for label in (SAT, DSAT) for name, turn in draw.list_kept(label)}
    found = dict(_iter_conversations(workspace, pa.array(wanted)))
    if lost := wanted.keys() - found.keys():
        raise UserError(
            f"{labels} has labels of {len(lost):,} conversations that are not in this workspace, such as "
            f"{escape_invisible(min(lost), 100)}: the table was made from other conversations. Make it again, or give "
            "another LABELS=."
        )
    examples = [
        RatedConversation(name, turn, label, found[name][: turn + 1])
        for name, (turn, label) in wanted.items()
    ]
    return DrawnConversations(examples, dict(draw.offered))


def _iter_conversations(workspace: Workspace, names: pa.Array) -> Iterator[tuple[str, Messages]]:
    """Yield the ids and messages of the workspace's conversations that have these ids."""
    for batch in workspace.batches(TableName.CONVERSATIONS, CONVERSATION_COLUMNS, _CONVERSATIONS_PER_BATCH):
        for row in batch.filter(pc.is_in(batch["conversation_id"], names)).to_pylist():
            yield row["conversation_id"], row["messages"]


def _read_thumb(value: Any, where: str) -> str | None:
    """Return the label that a row's thumb stands for; None for no thumb.

    Raises:
        UserError: the value is not one of ACCEPTED_THUMBS; the message names the row by `where`.
    """
    if value is None:
        return None
    label = _THUMBS.get(value.strip().lower()) if isinstance(value, str) else None
    if isinstance(value, bool):
        label = SAT if value else DSAT
    elif isinstance(value, (int, float)):
        label = SAT if value == 1 else DSAT if value == -1 else None
    if label is None:
        shown = escape_invisible(json.dumps(value, ensure_ascii=False, default=str), 100)
        raise UserError(
            f"{where}: {shown} is not a valid `{THUMB_FIELD}`. Accepted are {ACCEPTED_THUMBS}; null stands for "
            "no thumb."
        )
    return label


def _read_messages(row: Mapping[str, Any], where: str) -> tuple[int | None, Messages, str | None]:
    """Return the thumb's turn, the messages up to that turn, and why they cannot be used (None: they can).

    Raises:
        UserError: the turn is not an index of a message.
    """
    raw, turn = find_first_value(row, *MESSAGES_KEYS), row.get(THUMB_TURN_FIELD)
    if turn is not None and isinstance(raw, list):
        if isinstance(turn, bool) or not isinstance(turn, int) or not 0 <= turn < len(raw):
            shown = escape_invisible(json.dumps(turn, ensure_ascii=False, default=str), 100)
            raise UserError(
                f"{where}: {shown} is not a valid `{THUMB_TURN_FIELD}`. The field is the index in `messages`, from 0, "
                f"of the message that the thumb belongs to: here 0 to {len(raw) - 1}."
            )
        raw = raw[: turn + 1]
    messages, problem = simplify_messages(raw)
    read = [
        {"role": replace_surrogates(m["role"] or ""), "content": replace_surrogates(m["content"] or "")}
        for m in messages or ()
    ]
    if problem is None and not any(m["role"] == "user" and m["content"].strip() for m in read):
        problem = "no_user_message"
    return turn, read, problem


def _name_conversation(row: Mapping[str, Any], messages: Messages) -> str:
    """Return the id that a row gives its chat, else a hash of the messages; "" if there are no messages either."""
    given = parse_text(find_first_value(row, *_ID_FIELDS))
    if given:
        return replace_surrogates(given)
    content = json.dumps(list(messages), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:_KEY_LENGTH] if messages else ""


def _make_dropped_row(name: str, reason: str, detail: str | None) -> dict[str, Any]:
    return {"conversation_id": name, "turn": None, "reason": reason, "detail": detail}
