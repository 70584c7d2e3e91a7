"""What a teacher's labels took, and what its labels of all conversations would take. Knows no label."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from drift_data.labels.tables import SAMPLE
from drift_data.workspace import Manifest

_UNASKED: Final = ("over_budget", "no_answer")  # why turns were dropped whose requests took nothing


class Money(BaseModel):
    """Requests and their price, in the currency of the recipe; the price is None where nobody has named one.

    Requests that a checked answer made necessary again are counted, as they are paid.
    """

    conversations: int  # that the teacher was asked about
    all_conversations: int
    requests: int
    price: float | None
    all_requests: int  # for all conversations, by the share that was asked about
    all_price: float | None

    @property
    def saved_requests(self) -> int:
        """Return the requests that nobody has to send when a student labels the rest."""
        return self.all_requests - self.requests

    @property
    def saved_price(self) -> float | None:
        """Return their price."""
        return None if self.all_price is None or self.price is None else self.all_price - self.price


def money(teacher: Manifest | None, conversations: int) -> Money | None:
    """Return what a label table took, from its manifest; None for labels that took no request.

    Args:
        teacher: of the label table.
        conversations: in the workspace.
    """
    requests = teacher.made_by.get("requests") if teacher is not None else None
    if teacher is None or not requests:
        return None
    sent = requests["sent"] + requests["from_store"]
    if not sent:
        return None
    price = teacher.made_by["price"]["now"] + teacher.made_by["price"]["before"]
    share = min(1.0, (teacher.options.get(SAMPLE) or conversations) / conversations)
    unasked = sum(teacher.dropped.get(reason, 0) for reason in _UNASKED)
    asked = share * (1 - unasked / max(1, teacher.rows_in or 0))
    return Money(
        conversations=round(asked * conversations),
        all_conversations=conversations,
        requests=sent,
        price=price or None,
        all_requests=round(sent / asked),
        all_price=price / asked or None,
    )
