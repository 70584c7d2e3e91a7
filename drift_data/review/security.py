"""Lets only a browser on this machine that opened the printed address talk to the page.

Logs are private, and other users and web pages may reach a port of this machine. Every request needs two things: a Host
header that names this machine, so that foreign names that resolve to this machine are refused, and the cookie that the
printed address sets. A request that writes also needs a token that only the page contains (`server.py` checks it).
"""

from __future__ import annotations

import secrets
from typing import Final
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ALLOWED_HOSTS: Final = ("127.0.0.1", "localhost")
MAX_FORM_BYTES: Final = 64 << 10  # a longer form is refused
_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_KEY_MISSING: Final = "Open the address that `make review` printed: it lets your browser in.\n"


class Gate:
    """Lets requests of the invited browser through, and adds headers that shut out everything of other origins.

    Args:
        app: application behind the gate.
        key: secret of the printed address `/?key=…`.
        cookie: name of the cookie. All ports of a machine share their cookies, so each port needs a name of its own.
    """

    def __init__(self, app: ASGIApp, key: str, cookie: str) -> None:
        self._app, self._key, self._cookie = app, key, cookie
        self._check_host = TrustedHostMiddleware(
            self._check_cookie, allowed_hosts=ALLOWED_HOSTS, www_redirect=False
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._check_host(scope, receive, send_with_headers)

    async def _check_cookie(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request without the right cookie; pass on any other."""
        await (self._answer_stranger(scope) or self._app)(scope, receive, send)

    def _answer_stranger(self, scope: Scope) -> ASGIApp | None:
        """Return the answer to a request without the right cookie; None when the request may pass.

        The answer to the printed address sets the cookie and leads to the page.
        """
        request = Request(scope)
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
            return PlainTextResponse(_KEY_MISSING, 403)
        return None


async def read_form(request: Request) -> dict[str, list[str]] | None:
    """Return the fields of a form; None if the request is too long or contains no form."""
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return None
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            return None
    try:
        return parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        return None
