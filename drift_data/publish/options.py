"""Options of `make publish`: what may be uploaded to the Hub, and who sees it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PublishOptions(BaseModel):
    """What may be published, and who sees it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str | None = Field(
        None,
        description="Name of a run whose pairs are published beside the mined tables; null: the mined tables only.",
        json_schema_extra={"source": "ours"},
    )
    private: bool = Field(
        True,
        description="Whether a new repository is private; an existing public repository is then refused.",
        json_schema_extra={"source": "ours"},
    )
    allow_toxic: bool = Field(
        False,
        description="Whether rows of conversations that the source flags as toxic may be published.",
        json_schema_extra={"source": "ours"},
    )
    allow_pii: bool = Field(
        False,
        description="Whether own logs are published without the scan for personal data.",
        json_schema_extra={"source": "ours"},
    )
    phone_regions: tuple[str, ...] = Field(
        (),
        description="ISO countries, such as US, whose telephone numbers the scan also finds without a + prefix.",
        json_schema_extra={"source": "ours"},
    )
    licence: str | None = Field(
        None,
        description="The Hub's id of the licence on the card, such as cc-by-4.0; null: the licence of the source "
        "or of the base model, where it is known.",
        json_schema_extra={"source": "ours"},
    )
