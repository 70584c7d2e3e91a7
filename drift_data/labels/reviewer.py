"""Names the people who review, and the folders in which their labels lie."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from drift_data.workspace import UserError

HUMAN_JUDGE_PREFIX: Final = "human:"  # stands before a person's name in the column `judge`
# Stands before a person's name in the folder of that person's labels. A colon is not portable in folder names.
HUMAN_TABLE_PREFIX: Final = "human-"
REVIEW_STAGE: Final = "review"  # stage in the manifest of a person's labels
_MAX_NAME_CHARACTERS: Final = 40


@dataclass(frozen=True)
class Reviewer:
    """A person who reviews labels, by a name that can be part of a folder's name."""

    name: str

    @property
    def judge(self) -> str:
        """The person's name in the column `judge`, such as "human:ann"."""
        return f"{HUMAN_JUDGE_PREFIX}{self.name}"

    @property
    def table(self) -> str:
        """The folder of the person's labels, such as "labels/human-ann"."""
        return f"labels/{HUMAN_TABLE_PREFIX}{self.name}"


def make_reviewer(name: str) -> Reviewer:
    """Return the reviewer whose name somebody typed.

    The name becomes lower case, and each run of characters other than letters, digits, dots and underscores becomes a
    dash; so does a run of dots. The name is cut at 40 characters.

    Raises:
        UserError: the name has no letter or digit.
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    cleaned = re.sub(r"\.{2,}|[^\w.]+", "-", plain)[:_MAX_NAME_CHARACTERS].strip("-._")
    if not cleaned:
        raise UserError(f"REVIEWER={name!r:.60} has no letter or digit. Give a name, such as REVIEWER=ann.")
    return Reviewer(cleaned)
