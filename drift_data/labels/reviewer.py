"""Who reviews: a name that can be a folder's, and where that person's labels lie. Knows no label."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from drift_data.workspace import UserError

HUMAN: Final = "human:"  # how a person's judge begins
PERSON: Final = "human-"  # and the folder of the labels: a colon is in no portable name
_LONGEST: Final = 40


@dataclass(frozen=True)
class Reviewer:
    """A person, by a cleaned name."""

    name: str

    @property
    def judge(self) -> str:
        """Return what the column `judge` says, such as "human:ann"."""
        return f"{HUMAN}{self.name}"

    @property
    def table(self) -> str:
        """Return the folder of the person's labels."""
        return f"labels/{PERSON}{self.name}"


def reviewer(name: str) -> Reviewer:
    """Return the reviewer of a name as typed: lower case, what is no letter, digit, dot or underscore made a dash.

    Raises:
        UserError: nothing is left of the name.
    """
    plain = unicodedata.normalize("NFKC", name).casefold()
    cleaned = re.sub(r"\.{2,}|[^\w.]+", "-", plain)[:_LONGEST].strip("-._")
    if not cleaned:
        raise UserError(f"REVIEWER={name!r:.60} has no letter or digit. Give a name, such as REVIEWER=ann.")
    return Reviewer(cleaned)


STAGE: Final = "review"
