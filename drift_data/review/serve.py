"""Serves the pages on a port of this machine until Ctrl-C.

Starlette and uvicorn do the work. Gradio is not used, because it sends usage statistics, is made for the mouse, and
brings a front end of its own.
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
from drift_data.review.server import ReviewPages
from drift_data.review.session import ReviewSession
from drift_data.workspace import UserError

LOCAL_ADDRESS: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8765
_RETRY_SECONDS: Final = 5.0  # time between attempts to write a table that could not be written


def serve_review(
    session: ReviewSession, start: Selection, port: int | None, ready: Callable[[str], None]
) -> None:
    """Serve until the process is interrupted; then write the table if it has to be written yet, and close the journal.

    Args:
        session: the reviewer's session.
        start: selection to show first.
        port: port to listen on, 0 for any free one; None: `DEFAULT_PORT`, or any free one when that is taken.
        ready: called with the address to open.

    Raises:
        UserError: the port is taken.
    """
    with contextlib.closing(session), _open_listener(port) as listener:
        number, key = listener.getsockname()[1], secrets.token_urlsafe(24)
        app = ReviewPages(session, start).make_app(key, f"drift_review_{number}")
        config = uvicorn.Config(
            _retry_waiting_tables(app, session),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
        ready(f"http://{LOCAL_ADDRESS}:{number}/?key={key}")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _open_listener(port: int | None) -> socket.socket:
    """Return a listening socket.

    Raises:
        UserError: the port is taken, or no port is free.
    """
    for number in (port,) if port is not None else (DEFAULT_PORT, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOCAL_ADDRESS, number))
            listener.listen()  # the address is announced after this, and must answer then
            return listener
        except OSError as error:
            listener.close()
            if port is not None:
                raise UserError(
                    f"PORT={port} cannot be used: {error.strerror}. Choose another PORT=."
                ) from error
    raise UserError(f"{LOCAL_ADDRESS} has no free port. Name one with PORT=.")


def _retry_waiting_tables(app: Starlette, session: ReviewSession) -> Starlette:
    """Return the application; while it runs, it retries to write a table that could not be written."""

    async def write_what_waits() -> None:
        while True:
            await asyncio.sleep(_RETRY_SECONDS)
            if session.pending:
                session.save_table()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(write_what_waits())
        yield
        task.cancel()

    app.router.lifespan_context = lifespan
    return app
