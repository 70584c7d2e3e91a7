"""Computes what a teacher's labels cost, and what its labels of all conversations would cost."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

from drift_data.labels.tables import SAMPLE_STAGE
from drift_data.workspace import Manifest

_UNASKED_REASONS: Final = ("over_budget", "no_answer")  # reasons of dropped turns that cost no request


class TeacherCost(BaseModel):
    """Requests and their price in the currency of the recipe; a price is None if the recipe names no prices.

    A request that is sent again, because its answer failed a check, counts again: it is paid again.
    """

    conversations: int  # conversations that the teacher was asked about
    all_conversations: int  # conversations of the workspace
    requests: int  # requests for `conversations`
    price: float | None  # price of `requests`
    all_requests: int  # requests for all conversations, extrapolated
    all_price: float | None  # price of `all_requests`

    @property
    def saved_requests(self) -> int:
        """Return the number of requests saved when the student labels the rest of the conversations."""
        return self.all_requests - self.requests

    @property
    def saved_price(self) -> float | None:
        """Return the price of the saved requests."""
        return None if self.all_price is None or self.price is None else self.all_price - self.price


def read_teacher_cost(teacher: Manifest | None, conversations: int) -> TeacherCost | None:
    """Return what a label table cost; None if the labels took no request.

    Args:
        teacher: manifest of the label table; None if the labels come from a file.
        conversations: number of conversations in the workspace.
    """
    requests = teacher.made_by.get("requests") if teacher is not None else None
    if teacher is None or not requests:
        return None
    sent = requests["sent"] + requests["from_store"]
    if not sent:
        return None
    price = teacher.made_by["price"]["now"] + teacher.made_by["price"]["before"]
    share = min(1.0, (teacher.options.get(SAMPLE_STAGE) or conversations) / conversations)
    unasked = sum(teacher.dropped.get(reason, 0) for reason in _UNASKED_REASONS)
    asked = share * (1 - unasked / max(1, teacher.rows_in or 0))
    return TeacherCost(
        conversations=round(asked * conversations),
        all_conversations=conversations,
        requests=sent,
        price=price or None,
        all_requests=round(sent / asked),
        all_price=price / asked or None,
    )
