"""Debian's Chromium, driven by Playwright. Tests that need it are skipped if either is missing."""

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

#: The popups are two pages that each window loads for its address bar: more work than loading the page of a test.
#: Chromium takes only the last list of features, so the list has Playwright's too.
_FEATURES_OFF = [
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "SpareRendererForSitePerProcess",
    "AimEnabled",
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "LensOverlay",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
]

#: No sandbox, because root cannot use it. No requests that the browser makes to other hosts by itself.
FLAGS = [
    f"--disable-features={','.join(_FEATURES_OFF)}",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Makes a page record violations of its content security policy.
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser. Skip the test if there is none."""
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
    """A page of a browser that records everything that must not happen in it."""

    def __init__(self, browser: Any, url: str, **settings: Any) -> None:
        """Open an empty page of a browser without cookies. It may only connect to the server at *url*."""
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(20_000)
        self.context.add_init_script(_NOTE_VIOLATIONS)
        self.page = self.context.new_page()
        self.url = url
        #: Error statuses of replies. Chromium reports them as errors, but the page handles them.
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
        """Return errors, warnings, dialogs, requests to other hosts, and violations of the page's policy so far."""
        return [*self._faults, *self.page.evaluate("window.violations ?? []")]
