"""Debian's Chromium, driven by Playwright; tests that need it are skipped where either is missing."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Watched", "chromium"]

PATH = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

#: Without the sandbox, which root cannot have; and without what the browser asks of other hosts by itself.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Has a page note what its policy forbids.
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; skips the test if there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test installs it")
    if PATH is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=PATH, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page of a browser, and everything that must not happen in it."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        """Open an empty page of a browser that knows no cookie; it may talk to the server at *url* alone."""
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(20_000)
        self.context.add_init_script(_NOTE_VIOLATIONS)
        self.page = self.context.new_page()
        self.url = url
        #: Statuses of answers that Chromium calls errors of the page, though the page deals with them.
        self.answered: list[int] = []
        self._faults: list[str] = []
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self._faults.append(f"error: {error}"))
        self.page.on("dialog", self._note_dialog)
        self.page.on("request", self._note_request)
        self.page.on("response", lambda answer: self.answered.append(answer.status) if answer.status > 399 else None)

    def _note_message(self, message: Any) -> None:
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            self._faults.append(f"{message.type}: {message.text}")

    def _note_dialog(self, dialog: Any) -> None:
        self._faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note_request(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc and not request.url.startswith("data:"):
            self._faults.append(f"request to {request.url}")

    def faults(self) -> list[str]:
        """Errors, warnings and dialogs so far, requests to other hosts, and what the page's policy forbade."""
        return [*self._faults, *self.page.evaluate("window.violations ?? []")]
