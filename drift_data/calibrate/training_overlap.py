"""Says which turns the classifier behind labels has learned from: figures on these are too good.

It knows the labels' manifest and the classifiers at hand: the one that ships and those of the workspace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl

from drift_data.judge.local.model import DISTILLED, Card, fingerprint, load_model
from drift_data.judge.local.options import MODEL_FILE
from drift_data.workspace import Manifest, UserError, Workspace

CAREFUL: Final = "CAREFUL:"  # how a note begins that takes back what figures say
_LOCAL: Final = ("local:", "cascade:local:")  # how the names of judges with a classifier begin


@dataclass(frozen=True)
class Classifier:
    """What is known of the classifier behind a label table."""

    judge: str
    hash: str
    card: Card | None  # None: no classifier at hand has this hash

    def has_seen(self, conversations: pl.Series) -> pl.Series:
        """Return for each conversation whether the classifier has learned from it, as far as that is known."""
        learned = _learned_from(self.card)
        names = conversations.unique()
        seen = pl.Series([fingerprint(name) in learned for name in names], dtype=pl.Boolean)
        return conversations.replace_strict(names, seen, return_dtype=pl.Boolean)

    def note(self, labels: str, matched: pl.DataFrame, without: str) -> str | None:
        """Return what the reader of figures on these turns must know; None when it has learned from none of them.

        Args:
            labels: the table.
            matched: the measured turns.
            without: what is said of figures when only a part of the turns was learned from.
        """
        if not _learned_from(self.card):
            return (
                f"{CAREFUL} which conversations the classifier of {labels} ({self.judge}, {self.hash}) has learned from is "
                f"not known: it is neither the one that ships nor in {DISTILLED}/, or older than this record. On "
                "turns that it has learned from its figures are too good."
            )
        names = matched["conversation_id"]
        seen = self.has_seen(names)
        if not seen.any():
            return None
        said = (
            f"{CAREFUL} {seen.sum():,} of these {matched.height:,} turns ({names.filter(seen).n_unique():,} of "
            f"{names.n_unique():,} conversations) are of conversations from which the classifier of {labels} "
            f"({self.judge}) has learned: on them its figures are too good. "
        )
        if not seen.all():
            return said + without
        return said + (
            "There are no others, so nothing here says how good it is, and no threshold is moved. Measure it on other "
            "conversations, or distil with SET=distill.hold_out=3, which keeps a third of them for measuring."
        )


def classifier_of(workspace: Workspace, manifest: Manifest) -> Classifier | None:
    """Return the classifier behind a label table, None for other judges."""
    judge = str(manifest.options.get("judge", ""))
    if not judge.startswith(_LOCAL):
        return None
    options = manifest.options["judge_options"]
    wanted = str(options.get("local", options)["model"])
    card = next((card for digest, card in _at_hand(workspace) if digest == wanted), None)
    return Classifier(judge, wanted, card)


def _at_hand(workspace: Workspace) -> Iterator[tuple[str, Card]]:
    shipped = load_model()
    yield shipped.hash, shipped.card
    for path in sorted(workspace.path(DISTILLED).glob(f"*/{MODEL_FILE}")):
        try:
            model = load_model(path)
        except UserError:  # of another version of the toolkit: its labels are not measured anew either
            continue
        yield model.hash, model.card


def _learned_from(card: Card | None) -> Collection[str]:
    return frozenset(card.data.get("learned_from", ())) if card is not None else frozenset()
