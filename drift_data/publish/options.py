"""The options of publishing."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class PublishOptions(BaseModel):
    """What may be published, and how it is seen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str | None = None  # its pairs are published, too
    private: bool = True
    allow_toxic: bool = False
    allow_pii: bool = False  # publish own logs without the scan for personal data
    phone_regions: tuple[str, ...] = ()  # countries ("US") whose numbers also count without the + prefix
    licence: str | None = None  # the Hub's id of a licence, e.g. "cc-by-4.0"; None: that of the source
