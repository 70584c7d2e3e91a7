"""Reads the key of an OpenAI-compatible server, for the client and for the Batch API."""

from __future__ import annotations

import os

from drift_data.llm.options import ServerOptions
from drift_data.workspace import UserError


def read_key(server: ServerOptions) -> str:
    """Return the key from the environment variable that the options name; "none" where no key is needed.

    Raises:
        UserError: OpenAI needs a key and there is none, or the variable holds something that cannot be a key.
    """
    key = os.environ.get(server.api_key_env, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise UserError(
            f"The value of ${server.api_key_env} cannot be a key: it has blanks, line breaks or characters that no "
            "key has. Set it to the key alone, without quotation marks or Bearer."
        )
    if not key and server.at_openai:
        raise UserError(
            f"There is no key for {server.host}: set ${server.api_key_env}, or name a server by BASE_URL=."
        )
    return key or "none"
