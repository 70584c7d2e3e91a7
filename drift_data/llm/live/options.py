"""How requests are sent to a server: how many at once, and how patiently."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    pass


class ClientOptions(BaseModel):
    """How patiently and how many at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    connections: int = Field(32, gt=0, le=1_000, description="requests at once at most")
    timeout: float = Field(300.0, gt=0, description="seconds for one answer")
    tries: int = Field(6, gt=0, description="of a request that fails by itself")
    first_wait: float = Field(
        1.0, ge=0, description="seconds at most before the second try; doubles with each"
    )
    longest_wait: float = Field(60.0, ge=0, description="seconds between two tries")
    patience: float = Field(
        900.0, ge=0, description="seconds for one request, or for a wait that the server asks for"
    )
    breaker: int = Field(10, gt=0, description="requests that fail in a row before the run ends")
