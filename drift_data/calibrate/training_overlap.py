"""Finds the measured turns that the classifier behind a label table was trained on: figures on them are too good.

The manifest of the labels names the classifier. Its training conversations are known if it is the classifier that
ships or one of the workspace.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl

from drift_data.judge.local.model import (
    DISTILLED_FOLDER,
    ClassifierCard,
    fingerprint_conversation,
    load_classifier,
)
from drift_data.judge.local.options import MODEL_FILE
from drift_data.workspace import Manifest, UserError, Workspace

WARNING_PREFIX: Final = "CAREFUL:"  # first word of a note that says figures must not be believed
# How the names of judges that use a classifier begin.
_CLASSIFIER_JUDGES: Final = ("local:", "cascade:local:")


@dataclass(frozen=True)
class LabelClassifier:
    """The classifier that made a label table; its card is known only if the classifier ships or is in the workspace."""

    judge: str  # the judge's name in the manifest
    hash: str  # the classifier's hash in the manifest
    card: ClassifierCard | None  # None: neither the shipped classifier nor one of the workspace has this hash

    def has_seen(self, conversations: pl.Series) -> pl.Series:
        """Return for each conversation whether the classifier is known to have learned from it.

        Args:
            conversations: (turns,) ids.

        Returns:
            (turns,) true or false.
        """
        learned = _list_fingerprints(self.card)
        names = conversations.unique()
        seen = pl.Series([fingerprint_conversation(name) in learned for name in names], dtype=pl.Boolean)
        return conversations.replace_strict(names, seen, return_dtype=pl.Boolean)

    def describe_overlap(self, labels: str, matched: pl.DataFrame, without: str) -> str | None:
        """Return a warning for figures on these turns; None when the classifier learned from none of them.

        Args:
            labels: folder of the label table.
            matched: the measured turns.
            without: last sentence of the warning when the classifier learned from only some of the turns.
        """
        if not _list_fingerprints(self.card):
            return (
                f"{WARNING_PREFIX} it is not known from which conversations the classifier of {labels} ({self.judge}, "
                f"{self.hash}) has learned: the classifier neither ships with the toolkit nor lies in "
                f"{DISTILLED_FOLDER}/, or its card does not list them. On turns that it has learned from, its figures are too good."
            )
        names = matched["conversation_id"]
        seen = self.has_seen(names)
        if not seen.any():
            return None
        said = (
            f"{WARNING_PREFIX} {seen.sum():,} of these {matched.height:,} turns ({names.filter(seen).n_unique():,} of "
            f"{names.n_unique():,} conversations) belong to conversations from which the classifier of {labels} "
            f"({self.judge}) has learned: on them its figures are too good. "
        )
        if not seen.all():
            return said + without
        return said + (
            "There are no other turns, so nothing here says how good it is, and no threshold is moved. Measure it on "
            "other conversations, or distil with SET=distill.hold_out=3, which keeps a third of them for measuring."
        )


def find_classifier(workspace: Workspace, manifest: Manifest) -> LabelClassifier | None:
    """Return the classifier that made a label table; None if another kind of judge made it."""
    judge = str(manifest.options.get("judge", ""))
    if not judge.startswith(_CLASSIFIER_JUDGES):
        return None
    options = manifest.options["judge_options"]
    wanted = str(options.get("local", options)["model"])
    card = next((card for digest, card in _iter_models(workspace) if digest == wanted), None)
    return LabelClassifier(judge, wanted, card)


def _iter_models(workspace: Workspace) -> Iterator[tuple[str, ClassifierCard]]:
    """Yield (hash, card) of the classifier that ships, then of each classifier in the workspace."""
    shipped = load_classifier()
    yield shipped.hash, shipped.card
    for path in sorted(workspace.path(DISTILLED_FOLDER).glob(f"*/{MODEL_FILE}")):
        try:
            model = load_classifier(path)
        except UserError:
            # Another version of the toolkit made this classifier. Its labels count as those of an unknown classifier.
            continue
        yield model.hash, model.card


def _list_fingerprints(card: ClassifierCard | None) -> Collection[str]:
    """Return the fingerprints of the training conversations that a card lists."""
    return frozenset(card.data.get("learned_from", ())) if card is not None else frozenset()
