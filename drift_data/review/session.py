"""Holds one reviewer's work: loads the turns to show, keeps decisions, and writes the reviewer's label table.

A decision goes into the journal first and into the table second. If one of the tables that the session reads is made
anew meanwhile, the session loads it at the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from drift_data.judge.rubric import Rubric
from drift_data.labels.reviewer import Reviewer
from drift_data.review.journal import REVIEW_FILE, Decision, Journal, ReviewedTurn, combine_decisions
from drift_data.review.measure import ReviewAgreement, measure_review
from drift_data.review.queue import OPEN_CODE, ReviewQueue, TurnKey
from drift_data.review.rows import RowReader
from drift_data.review.selection import Selection
from drift_data.review.table import check_table, find_changed_turns, hash_text, write_table
from drift_data.review.turn_view import TurnView, make_turn_view
from drift_data.schema import LABELS, TableName
from drift_data.workspace import UserError, Workspace

_LABEL_COLUMNS = (
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
_CONVERSATION_COLUMNS = ("conversation_id", "model", "language", "timestamp", "toxic", "messages")


@dataclass(frozen=True)
class ReviewOptions:
    """What one `make review` is asked for."""

    labels: str  # folder of the label table to review
    reviewer: Reviewer
    rubric: Rubric  # its items can be ticked on the page
    against: str | None = None  # folder of another judge's labels, to find disagreements
    blind: bool = False  # hide what the judge says until the reviewer has decided


@dataclass(frozen=True)
class ShownTurn:
    """One turn as the page shows it."""

    number: int  # row of the label table
    key: TurnKey
    conversation: Mapping[str, Any]  # columns of the conversation, without its messages
    view: TurnView
    judged: Mapping[str, Any]  # the judge's label row
    other_label: str | None  # label of the other judge
    reviewed: ReviewedTurn | None  # what the reviewer has decided so far
    hidden: bool  # whether the page hides what the judges say
    text_hash: str  # hash of the judged reply and the message, as shown
    previous: TurnKey | None  # turn before it in the selection
    following: TurnKey | None  # turn after it in the selection


@dataclass(frozen=True)
class FormAnswer:
    """What the form of the page says."""

    key: TurnKey
    label: str
    items: frozenset[str]  # ticked items
    shown_items: frozenset[str]  # items that were ticked when the page was made
    prefilled_label: str  # label to which `shown_items` belong; "" when nothing was ticked
    refusal: bool | None
    correct_refusal: bool | None
    judge_label: str  # the judge's label as the page showed it; "" when it was hidden
    text_hash: str  # hash of the text that the page showed
    blind: bool  # whether the judge's label was hidden


class StaleTurnError(Exception):
    """The turn has changed since the page was made, so the decision was not saved."""


class ReviewSession:
    """Reads and writes for one reviewer.

    Args:
        workspace: holds `conversations` and the labels.
        options: what is reviewed, and by whom.

    Raises:
        UserError: labels or conversations are missing, or the reviewer's table was not made by a review.
    """

    def __init__(self, workspace: Workspace, options: ReviewOptions) -> None:
        self.workspace, self.options = workspace, options
        self._tables = [
            TableName.CONVERSATIONS,
            options.labels,
            *([options.against] if options.against else []),
        ]
        if options.reviewer.table in self._tables:
            raise UserError(
                f"{options.reviewer.name} writes {options.reviewer.table}, so that table cannot be what is reviewed. "
                "Choose another LABELS=, AGAINST= or REVIEWER=."
            )
        self._digests = self._read_digests()
        self.journal = Journal(workspace.root / REVIEW_FILE)
        self.pending: str | None = None  # why the reviewer's table lacks decisions; None: it has them all
        self.reloaded = False  # whether the session loaded tables again since the last page
        check_table(workspace, options.reviewer, self.journal.read_revision(options.reviewer.name))
        self._load()
        manifest = workspace.manifest(options.reviewer.table)
        written = manifest.options["revision"] if manifest else [0, 0]
        if self._revision != written or self._has_old_conversations():
            self.save_table()

    def _has_old_conversations(self) -> bool:
        """Say whether the reviewer's table was made from conversations that have been made anew since."""
        manifest = self.workspace.manifest(self.options.reviewer.table)
        return manifest is not None and manifest.inputs[TableName.CONVERSATIONS] != self._digests[0]

    def _read_digests(self) -> list[str]:
        """Return a digest of each table; a table that is made anew gets another digest.

        Raises:
            UserError: a table is missing, or does not fit the other tables because it is just being made.
        """
        return [self.workspace.require(name).digest for name in self._tables]

    def _load(self) -> None:
        """Load the tables and the reviewer's decisions."""
        self.queue = ReviewQueue(self.workspace, self.options.labels, self.options.against)
        self._conversations = RowReader(self.workspace, TableName.CONVERSATIONS, _CONVERSATION_COLUMNS)
        self._labels = RowReader(self.workspace, self.options.labels, _LABEL_COLUMNS)
        self._changed = find_changed_turns(self.workspace, self.journal, self.options.reviewer)
        self._read_journal()

    def _read_journal(self) -> None:
        """Read the reviewer's decisions anew."""
        name = self.options.reviewer.name
        self._revision = self.journal.read_revision(name)
        self.reviewed = {turn.key: turn for turn in self.journal.read_reviewed(name)}
        self._by_number: dict[int, ReviewedTurn] = {}
        # (turns,) codes of the reviewer's labels
        self.codes = np.full(len(self.queue), OPEN_CODE, np.int8)
        for key, turn in self.reviewed.items():
            number = self.queue.find_number(*key)
            if number is not None and key not in self._changed:
                self._by_number[number] = turn
                self.codes[number] = LABELS.index(turn.last.label)
        self._agreement: ReviewAgreement | None = None

    def refresh(self) -> None:
        """Load what has changed meanwhile: tables that were made anew, and decisions of another process."""
        digests = self._read_digests()
        if digests != self._digests:
            self._load()
            self._digests, self.reloaded = digests, True
            if self.reviewed:
                self.save_table()
        elif self.journal.read_revision(self.options.reviewer.name) != self._revision:
            self._read_journal()

    def load_turn(self, number: int, chosen: Selection) -> ShownTurn:
        """Return a turn to show.

        Args:
            number: row of the label table.
            chosen: selection in which the previous and the following turn are looked for.
        """
        conversation = self._conversations.read(int(self.queue.places[number]))
        judged = self._labels.read(number)
        key, reviewed = self.queue.key(number), self._by_number.get(number)
        hidden = self.options.blind and reviewed is None and not chosen.reveals_judge
        previous, following = (
            self.queue.find_next(chosen, self.codes, number, forward) for forward in (False, True)
        )
        messages = conversation.pop("messages")
        return ShownTurn(
            number=number,
            key=key,
            conversation=conversation,
            view=make_turn_view(messages, key[1], None if hidden else judged["evidence"]),
            judged=judged,
            other_label=self._find_other_label(number),
            reviewed=reviewed,
            hidden=hidden,
            text_hash=hash_text(messages, key[1]),
            previous=None if previous is None else self.queue.key(previous),
            following=None if following is None else self.queue.key(following),
        )

    def _find_other_label(self, number: int) -> str | None:
        """Return the other judge's label of a turn; None if there is none."""
        code = OPEN_CODE if self.queue.others is None else int(self.queue.others[number])
        return None if code == OPEN_CODE else LABELS[code]

    def measure(self) -> ReviewAgreement:
        """Return how well the reviewer and the judge agree so far."""
        if self._agreement is None:
            self._agreement = measure_review(self.queue, self._by_number)
        return self._agreement

    def decide(self, answer: FormAnswer, chosen: Selection) -> Decision:
        """Keep a decision; when the method returns, the decision is on the disk.

        Args:
            answer: what the form says.
            chosen: selection in which the turn was shown.

        Raises:
            StaleTurnError: the conversation has changed since it was shown, or the judge has no such turn any more.
            OSError: the journal cannot be written, as when the disk is full.
        """
        number = self.queue.find_number(*answer.key)
        if number is None:
            raise StaleTurnError(f"{self.options.labels} has no such turn any more.")
        conversation = self._conversations.read(int(self.queue.places[number]))
        if hash_text(conversation["messages"], answer.key[1]) != answer.text_hash:
            raise StaleTurnError("the conversation was changed since you read it. Load the page again.")
        judged = self._labels.read(number)
        decision = self.journal.add(
            Decision(
                reviewer=self.options.reviewer.name,
                conversation_id=answer.key[0],
                turn=answer.key[1],
                label=answer.label,
                items=self._choose_items(answer),
                refusal=answer.refusal,
                correct_refusal=answer.correct_refusal if answer.refusal else None,
                labels=self.options.labels,
                judge=judged["judge"],
                judge_label=judged["label"] if answer.blind else answer.judge_label,
                selection=chosen.to_query(),
                random=chosen.is_random,
                blind=answer.blind,
                text=answer.text_hash,
                conversations=self._digests[0],
            )
        )
        self._remember(number, decision)
        self.save_table()
        return decision

    def _choose_items(self, answer: FormAnswer) -> tuple[str, ...]:
        """Return the ticked items in the rubric's order.

        The items that the page had ticked belong to the label that the page showed. If the reviewer left the items
        untouched and gave another label, only the items of that label's polarity are kept.
        """
        untouched = answer.items == answer.shown_items and answer.label != answer.prefilled_label
        return tuple(
            item.name
            for item in self.options.rubric.items
            if item.name in answer.items and not (untouched and item.polarity != answer.label)
        )

    def _remember(self, number: int, decision: Decision) -> None:
        """Add a decision of this session to the decisions in memory."""
        expected = [self._revision[0] + 1, self._revision[1]]
        self._revision = self.journal.read_revision(self.options.reviewer.name)
        if self._revision != expected or decision.key in self._changed:  # another process decided, too
            self._changed.discard(decision.key)
            self._read_journal()
            return
        turn = combine_decisions(self.reviewed.pop(decision.key, None), decision)
        self.reviewed[decision.key] = self._by_number[number] = turn
        self.codes[number] = LABELS.index(decision.label)
        self._agreement = None

    def undo(self, number: int) -> Decision | None:
        """Take a decision back, and return it; None if it was taken back already, or its turn has a newer decision.

        Args:
            number: number of the decision in the journal.
        """
        decision = self.journal.undo(self.options.reviewer.name, number)
        if decision is not None:
            self._read_journal()
            self.save_table()
        return decision

    def save_table(self) -> None:
        """Write the reviewer's table. If that fails, `pending` says why, and the journal has every decision."""
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
        """Write the table if it lacks decisions, and close the journal."""
        if self.pending:
            self.save_table()
        self.journal.close()
