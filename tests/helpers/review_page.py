"""A review as its reader has it: `drift review` as a process, and headless Chromium on the page."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from drift_data.workspace import Workspace

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed: apt-get install --no-install-recommends chromium"
)
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def reviewing(workspace: Workspace, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `drift review` on a free port; give the address that it prints, and the process."""
    command = [sys.executable, "-m", "pipelines", "review", "--work", str(workspace.root), "--port", "0"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = next(line.split()[1] for line in process.stdout if line.startswith("open http"))
            yield address, process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(timeout=30)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start headless Chromium with a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_FLAGS])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched(browser: Browser) -> Iterator[Page]:
    """Open a page that may neither report an error nor ask another machine for anything."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    troubles: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: None if _ours(request.url) else troubles.append(request.url))
    yield page
    assert troubles == []
    page.close()


def _ours(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:"))


def press(page: Page, key: str) -> None:
    """Press a key that leads to another page, and wait for that; the first moments of a page take no keys."""
    page.wait_for_timeout(250)
    with page.expect_navigation():
        page.keyboard.press(key)
