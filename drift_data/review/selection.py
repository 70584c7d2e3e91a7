"""Reads from FILTER=, or from the page's address, which turns to show and in which order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drift_data.workspace import UserError

ORDER_TITLES = {
    "random": "random (a fixed hash)",
    "uncertain": "uncertain first",
    "disagreements": "disagreements first",
    "log": "as in the logs",
}
STATE_TITLES = {
    "open": "not yet reviewed",
    "done": "reviewed",
    "differ": "reviewed, and not what the judge says",
    "all": "all",
}


UNKNOWN_LANGUAGE = "(not known)"  # language of conversations for which the logs give none


class Selection(BaseModel):
    """Which turns to show, and in which order. A filter that is None lets every turn pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    order: Literal["random", "uncertain", "disagreements", "log"] = "random"
    state: Literal["open", "done", "differ", "all"] = "open"
    label: Literal["SAT", "DSAT", "NEUTRAL"] | None = None  # label that the judge gave
    item: str | None = Field(None, max_length=200)  # item that the judge saw
    language: str | None = Field(None, max_length=200)

    @property
    def is_random(self) -> bool:
        """Say whether the turns are a simple random sample of all labelled turns."""
        plain = self.label is None and self.item is None and self.language is None
        return self.order == "random" and self.state in ("open", "all") and plain

    @property
    def reveals_judge(self) -> bool:
        """Say whether the selection itself gives away what the judge says, so that a decision is not blind."""
        narrowed = self.label is not None or self.item is not None
        return narrowed or self.order in ("uncertain", "disagreements") or self.state == "differ"

    def to_query(self) -> dict[str, str]:
        """Return the parameters of the page's address: the order, and every filter that is not the default."""
        return {"order": self.order, **self.model_dump(exclude_defaults=True)}


def make_selection(values: Mapping[str, str], said: str = "FILTER=") -> Selection:
    """Return the selection of a mapping; an empty value counts as none.

    Args:
        values: name → value, as in FILTER= or the page's address.
        said: first words of the error message, which say where the values come from.

    Raises:
        UserError: a name or value is unknown.
    """
    try:
        return Selection.model_validate({name: value for name, value in values.items() if value})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{said} {where}: {first['msg']}. It takes order={'|'.join(ORDER_TITLES)}, state={'|'.join(STATE_TITLES)}, "
            "label=SAT|DSAT|NEUTRAL, item=… and language=…, separated by spaces."
        ) from None


def parse_filter(text: str) -> Selection:
    """Return the selection of a text such as "order=uncertain label=DSAT"; a value may contain spaces.

    Raises:
        UserError: a part is not name=value, or a name or value is unknown.
    """
    pairs = [part.partition("=") for part in re.split(r"\s+(?=\w+=)", text.strip()) if part]
    wrong = next((name for name, equals, _ in pairs if not equals), None)
    if wrong is not None:
        raise UserError(
            f'FILTER= takes name=value, not {wrong!r:.60}, e.g. FILTER="order=uncertain label=DSAT".'
        )
    return make_selection({name: value for name, _, value in pairs})
