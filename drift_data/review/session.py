"""One reviewer at work: what to show, what was decided, and the label table that follows. Knows no HTTP and no HTML.

Tables that are made anew meanwhile are noticed at the next step; decisions are kept in the journal first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from drift_data.judge.rubric import Rubric
from drift_data.labels.reviewer import Reviewer
from drift_data.review.journal import FILE, Decision, Journal, Reviewed, after
from drift_data.review.measure import Measured, measure
from drift_data.review.queue import OPEN, Key, Queue
from drift_data.review.rows import Rows
from drift_data.review.selection import Selection
from drift_data.review.table import changed_turns, check_table, text_digest, write_table
from drift_data.review.turn_view import Exchange, exchange
from drift_data.schema import LABELS, TableName
from drift_data.workspace import UserError, Workspace

_JUDGED = (
    "label",
    "sat_score",
    "dsat_score",
    "items",
    "reason",
    "evidence",
    "refusal",
    "correct_refusal",
    "judge",
)
_CONVERSATION = ("conversation_id", "model", "language", "timestamp", "toxic", "messages")


@dataclass(frozen=True)
class Options:
    """What one `make review` is asked for."""

    labels: str
    reviewer: Reviewer
    rubric: Rubric
    against: str | None = None
    blind: bool = False


@dataclass(frozen=True)
class Turn:
    """One turn as it is shown."""

    number: int
    key: Key
    about: Mapping[str, Any]  # what is known of the conversation
    exchange: Exchange
    judged: Mapping[str, Any]  # the judge's row
    other: str | None  # label of the second judge
    mine: Reviewed | None
    hidden: bool  # what the judges say is not shown
    text: str  # digest of what is shown
    back: Key | None
    on: Key | None


@dataclass(frozen=True)
class Answer:
    """What the form of the page says."""

    key: Key
    label: str
    items: frozenset[str]
    shown_items: frozenset[str]  # that were ticked when the page was made
    prefilled_label: str  # to which they belonged, "" when nothing was ticked
    refusal: bool | None
    correct_refusal: bool | None
    judge_label: str  # as it was shown; "" when it was hidden
    text: str
    blind: bool


class Stale(Exception):
    """What was read is no longer what is there: nothing was saved."""


class Session:
    """Reads and writes for one reviewer.

    Args:
        workspace: holds `conversations` and the labels.
        options: what is reviewed, and by whom.

    Raises:
        UserError: labels or conversations are not there, or the reviewer's table is not one of reviews.
    """

    def __init__(self, workspace: Workspace, options: Options) -> None:
        self.workspace, self.options = workspace, options
        self._tables = [
            TableName.CONVERSATIONS,
            options.labels,
            *([options.against] if options.against else []),
        ]
        if options.reviewer.table in self._tables:
            raise UserError(
                f"{options.reviewer.table} is what {options.reviewer.name} writes: it cannot be what is reviewed. "
                "Choose another LABELS=, AGAINST= or REVIEWER=."
            )
        self._made = self._digests()
        self.journal = Journal(workspace.root / FILE)
        self.pending: str | None = None  # why the table does not have the last decision yet
        self.reloaded = False  # tables were made anew since the last page
        check_table(workspace, options.reviewer, self.journal.revision(options.reviewer.name))
        self._load()
        manifest = workspace.manifest(options.reviewer.table)
        if self._revision != (manifest.options["revision"] if manifest else [0, 0]) or self._is_old():
            self.save_table()

    def _is_old(self) -> bool:
        """Say whether the reviewer's table was made from other conversations."""
        manifest = self.workspace.manifest(self.options.reviewer.table)
        return manifest is not None and manifest.inputs[TableName.CONVERSATIONS] != self._made[0]

    def _digests(self) -> list[str]:
        """Return what tells whether a table was made anew.

        Raises:
            UserError: one of them is not there, or does not fit the others: it is just being made.
        """
        return [self.workspace.require(name).digest for name in self._tables]

    def _load(self) -> None:
        self.queue = Queue(self.workspace, self.options.labels, self.options.against)
        self._conversations = Rows(self.workspace, TableName.CONVERSATIONS, _CONVERSATION)
        self._labels = Rows(self.workspace, self.options.labels, _JUDGED)
        self._changed = changed_turns(self.workspace, self.journal, self.options.reviewer)
        self._read_journal()

    def _read_journal(self) -> None:
        name = self.options.reviewer.name
        self._revision = self.journal.revision(name)
        self.reviewed = {turn.key: turn for turn in self.journal.reviewed(name)}
        self._by_number: dict[int, Reviewed] = {}
        self.codes = np.full(len(self.queue), OPEN, np.int8)
        for key, turn in self.reviewed.items():
            number = self.queue.number(*key)
            if number is not None and key not in self._changed:
                self._by_number[number] = turn
                self.codes[number] = LABELS.index(turn.last.label)
        self._measured: Measured | None = None

    def refresh(self) -> None:
        """Take up what others have changed: tables made anew, decisions of another process."""
        made = self._digests()
        if made != self._made:
            self._load()
            self._made, self.reloaded = made, True
            if self.reviewed:
                self.save_table()
        elif self.journal.revision(self.options.reviewer.name) != self._revision:
            self._read_journal()

    def turn(self, number: int, chosen: Selection) -> Turn:
        """Return a turn to show."""
        about = self._conversations.read(int(self.queue.places[number]))
        judged = self._labels.read(number)
        key, mine = self.queue.key(number), self._by_number.get(number)
        hidden = self.options.blind and mine is None and not chosen.tells
        steps = [self.queue.step(chosen, self.codes, number, forward) for forward in (False, True)]
        messages = about.pop("messages")
        return Turn(
            number=number,
            key=key,
            about=about,
            exchange=exchange(messages, key[1], None if hidden else judged["evidence"]),
            judged=judged,
            other=self._other(number),
            mine=mine,
            hidden=hidden,
            text=text_digest(messages, key[1]),
            back=None if steps[0] is None else self.queue.key(steps[0]),
            on=None if steps[1] is None else self.queue.key(steps[1]),
        )

    def _other(self, number: int) -> str | None:
        code = OPEN if self.queue.others is None else int(self.queue.others[number])
        return None if code == OPEN else LABELS[code]

    def measured(self) -> Measured:
        """Return the agreement so far."""
        if self._measured is None:
            self._measured = measure(self.queue, self._by_number)
        return self._measured

    def decide(self, answer: Answer, chosen: Selection) -> Decision:
        """Keep a decision: when this returns, it is on the disk.

        Raises:
            Stale: the conversation is not what was read, or the judge has no such turn any more.
            OSError: the journal cannot be written, as when the disk is full.
        """
        number = self.queue.number(*answer.key)
        if number is None:
            raise Stale(f"{self.options.labels} has no such turn any more.")
        shown = self._conversations.read(int(self.queue.places[number]))
        if text_digest(shown["messages"], answer.key[1]) != answer.text:
            raise Stale("the conversation was changed since you read it. Load the page again.")
        judged = self._labels.read(number)
        decision = self.journal.add(
            Decision(
                reviewer=self.options.reviewer.name,
                conversation_id=answer.key[0],
                turn=answer.key[1],
                label=answer.label,
                items=self._items(answer),
                refusal=answer.refusal,
                correct_refusal=answer.correct_refusal if answer.refusal else None,
                labels=self.options.labels,
                judge=judged["judge"],
                judge_label=judged["label"] if answer.blind else answer.judge_label,
                selection=chosen.query(),
                random=chosen.is_random,
                blind=answer.blind,
                text=answer.text,
                conversations=self._made[0],
            )
        )
        self._take_up(number, decision)
        self.save_table()
        return decision

    def _items(self, answer: Answer) -> tuple[str, ...]:
        """Return the ticked items in the rubric's order.

        What was ticked beforehand and not touched belongs to the label that stood there: of another label only
        items of its own side are kept.
        """
        untouched = answer.items == answer.shown_items and answer.label != answer.prefilled_label
        return tuple(
            item.name
            for item in self.options.rubric.items
            if item.name in answer.items and not (untouched and item.polarity != answer.label)
        )

    def _take_up(self, number: int, decision: Decision) -> None:
        """Add a decision of this session to what is in memory."""
        expected = [self._revision[0] + 1, self._revision[1]]
        self._revision = self.journal.revision(self.options.reviewer.name)
        if self._revision != expected or decision.key in self._changed:  # another process decided, too
            self._changed.discard(decision.key)
            self._read_journal()
            return
        turn = after(self.reviewed.pop(decision.key, None), decision)
        self.reviewed[decision.key] = self._by_number[number] = turn
        self.codes[number] = LABELS.index(decision.label)
        self._measured = None

    def undo(self, number: int) -> Decision | None:
        """Take a decision back, and return it; None when something newer was decided on its turn."""
        decision = self.journal.undo(self.options.reviewer.name, number)
        if decision is not None:
            self._read_journal()
            self.save_table()
        return decision

    def save_table(self) -> None:
        """Write the reviewer's table; where that must wait, `pending` says why. The journal has everything."""
        try:
            write_table(
                self.workspace,
                self.options.reviewer,
                self.options.rubric,
                list(self.reviewed.values()),
                self._changed,
                self._revision,
            )
            self.pending = None
        except (UserError, OSError) as error:
            self.pending = str(error)

    def close(self) -> None:
        """Write what waits, and close the journal."""
        if self.pending:
            self.save_table()
        self.journal.close()
