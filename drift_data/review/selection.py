"""Which turns are shown, in which order: read from FILTER= and from the page's address. Knows no table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drift_data.workspace import UserError

ORDERS = {
    "random": "random (a fixed hash)",
    "uncertain": "uncertain first",
    "disagreements": "disagreements first",
    "log": "as in the logs",
}
STATES = {
    "open": "not yet reviewed",
    "done": "reviewed",
    "differ": "reviewed, and not what the judge says",
    "all": "all",
}


UNKNOWN = "(not known)"  # the language of a conversation of which the logs do not say it


class Selection(BaseModel):
    """What to show; None: whatever it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: Literal["random", "uncertain", "disagreements", "log"] = "random"
    state: Literal["open", "done", "differ", "all"] = "open"
    label: Literal["SAT", "DSAT", "NEUTRAL"] | None = None  # that the judge gave
    item: str | None = Field(None, max_length=200)  # that the judge saw
    language: str | None = Field(None, max_length=200)

    @property
    def is_random(self) -> bool:
        """Say whether turns come as a simple random sample of all labelled turns."""
        plain = self.label is None and self.item is None and self.language is None
        return self.order == "random" and self.state in ("open", "all") and plain

    @property
    def tells(self) -> bool:
        """Say whether being shown tells what the judge says, so that a decision is not blind."""
        narrowed = self.label is not None or self.item is not None
        return narrowed or self.order in ("uncertain", "disagreements") or self.state == "differ"

    def query(self) -> dict[str, str]:
        """Return the parameters of an address: the order, and what else differs from the default."""
        return {"order": self.order, **self.model_dump(exclude_defaults=True)}


def selection(values: Mapping[str, str], said: str = "FILTER=") -> Selection:
    """Return the selection of a mapping; an empty value is as good as none.

    Raises:
        UserError: an unknown name or value.
    """
    try:
        return Selection.model_validate({name: value for name, value in values.items() if value})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{said} {where}: {first['msg']}. It takes order={'|'.join(ORDERS)}, state={'|'.join(STATES)}, "
            "label=SAT|DSAT|NEUTRAL, item=… and language=…, separated by spaces."
        ) from None


def parse(text: str) -> Selection:
    """Return the selection of a text such as "order=uncertain label=DSAT"; a value may hold spaces.

    Raises:
        UserError: as `selection`.
    """
    pairs = [part.partition("=") for part in re.split(r"\s+(?=\w+=)", text.strip()) if part]
    wrong = next((name for name, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise UserError(
            f'FILTER= takes name=value, not {wrong!r:.60}, e.g. FILTER="order=uncertain label=DSAT".'
        )
    return selection({name: value for name, _, value in pairs})
