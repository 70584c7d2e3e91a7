"""Who may talk to the page: a browser on this machine that was given the address. Knows nothing of reviews.

Logs are private and other users or web pages may reach a port of this machine: every request needs the cookie that
the printed address sets, a Host that is this machine (a foreign name that resolves here is refused), and writes a
token that only the page has.
"""

from __future__ import annotations

import secrets
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS: Final = ("127.0.0.1", "localhost")
MOST_BYTES: Final = 64 << 10  # of a form
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ASK: Final = "Open the address that `make review` printed: it lets your browser in.\n"


class Gate:
    """Lets requests of the invited browser through, and adds the headers that forbid everything foreign.

    Args:
        app: what is behind it.
        key: of the printed address: `/?key=…`.
        cookie: name of the cookie; ports share their cookies, so it is another one for each.
    """

    def __init__(self, app: ASGIApp, key: str, cookie: str) -> None:
        self._app, self._key, self._cookie = app, key, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        await (self._refusal(scope) or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        request = Request(scope)
        host = Headers(scope=scope).get("host", "").rpartition(":")
        if (host[0] or host[2]) not in HOSTS:
            return PlainTextResponse("This page answers to 127.0.0.1 and localhost only.\n", 400)
        given = request.query_params.get("key")
        if (
            given is not None
            and request.method == "GET"
            and secrets.compare_digest(given.encode(), self._key.encode())
        ):
            rest = request.url.remove_query_params("key")
            response = RedirectResponse(f"/?{rest.query}" if rest.query else "/", 303)
            response.set_cookie(self._cookie, self._key, httponly=True, samesite="lax")
            return response
        known = request.cookies.get(self._cookie, "")
        if not secrets.compare_digest(known.encode(), self._key.encode()):
            return PlainTextResponse(_ASK, 403)
        return None


async def read_form(request: Request) -> dict[str, list[str]] | None:
    """Return the fields of a form; None when it is too long or no form."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return None
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            return None
    try:
        return parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        return None
