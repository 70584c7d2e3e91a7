"""Runs the pages on a port of this machine until Ctrl-C. Knows no page.

Starlette and uvicorn, not Gradio: that sends usage statistics, is made for the mouse, and brings a front end of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from typing import Final

import uvicorn
from starlette.applications import Starlette

from drift_data.review.selection import Selection
from drift_data.review.server import Pages
from drift_data.review.session import Session
from drift_data.workspace import UserError

ADDRESS: Final = "127.0.0.1"
PORT: Final = 8765
_AGAIN: Final = 5.0  # seconds between tries to write a table that has to wait


def serve(session: Session, start: Selection, port: int | None, ready: Callable[[str], None]) -> None:
    """Serve until the process is interrupted; then write what waits and close the journal.

    Args:
        session: of the reviewer.
        start: what is shown first.
        port: to listen on, 0 for any free one; None: the usual one, or any when that is taken.
        ready: told the address to open.

    Raises:
        UserError: the port is taken.
    """
    with contextlib.closing(session), _listening(port) as listener:
        number, key = listener.getsockname()[1], secrets.token_urlsafe(24)
        app = Pages(session, start).app(key, f"drift_review_{number}")
        config = uvicorn.Config(
            _with_retries(app, session),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
        ready(f"http://{ADDRESS}:{number}/?key={key}")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _listening(port: int | None) -> socket.socket:
    for number in (port,) if port is not None else (PORT, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, number))
            listener.listen()  # so that the address answers once it is told
            return listener
        except OSError as error:
            listener.close()
            if port is not None:
                raise UserError(f"PORT={port} cannot be used: {error.strerror}. Choose another.") from error
    raise UserError(f"{ADDRESS} has no free port. Name one with PORT=.")


def _with_retries(app: Starlette, session: Session) -> Starlette:
    """Return the application, which writes the reviewer's table as soon as nothing is in its way."""

    async def write_what_waits() -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            if session.pending:
                session.save_table()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(write_what_waits())
        yield
        task.cancel()

    app.router.lifespan_context = lifespan
    return app
