"""Where a model is served and with which key: what the client and the Batch API share. It sends nothing."""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from drift_data.workspace import UserError

OPENAI: Final = "https://api.openai.com/v1"


class ServerOptions(BaseModel):
    """An OpenAI-compatible server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str | None = None  # such as http://localhost:8000/v1; None: OpenAI
    # Name of the environment variable with the key, which is kept nowhere else.
    api_key_env: str = Field("OPENAI_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            address = urlsplit(value)
            usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
        except ValueError:  # its words show the value
            usable = False
        if not usable:
            raise ValueError("a base URL looks like http://localhost:8000/v1")
        if address.username or address.password or address.query:
            raise ValueError(
                "a base URL carries no credentials: put the key into the variable of api_key_env"
            )
        return value

    @property
    def url(self) -> str:
        """Return the base URL, OpenAI's by default."""
        return self.base_url or OPENAI

    @property
    def host(self) -> str:
        """Return the name of the server, for messages."""
        return urlsplit(self.url).netloc

    @property
    def at_openai(self) -> bool:
        """Say whether this is OpenAI itself."""
        return urlsplit(self.url).hostname == urlsplit(OPENAI).hostname

    def key(self) -> str:
        """Return the key from the environment; "none" for a server that may need none.

        Raises:
            UserError: OpenAI needs a key and there is none, or what is there cannot be one.
        """
        key = os.environ.get(self.api_key_env, "").strip()
        if not all("!" <= character <= "~" for character in key):
            raise UserError(
                f"${self.api_key_env} holds no key: there are blanks, line breaks or characters in it that no key "
                "has. Set it to the key alone, without quotation marks or Bearer."
            )
        if not key and self.at_openai:
            raise UserError(
                f"There is no key for {self.host}: set ${self.api_key_env}, or name a server by BASE_URL=."
            )
        return key or "none"
