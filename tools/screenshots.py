"""
Make the pictures of the dashboard in docs/images, from services that really run and are really called.

Needs Chromium, the packages of the group `web`, and ten minutes for the charts to fill.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sage_deploy_server import serve
from sage_plugins import Environment
from sage_plugins.errors import SageDeployError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from sage_deploy_server import Server

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests" / "support"))  # the browser, and the blocks of pages

_RANDOM = random.SystemRandom()

#: Bytes that a picture may have.
LIMIT = 60_000


# -- what the pictures show --------------------------------------------------------------------------------------------


class Checkout:
    """Answers in milliseconds. Some calls fail."""

    def pay(self) -> None:
        """Fail once in fifty calls."""
        time.sleep(_RANDOM.uniform(0.003, 0.05))
        if not _RANDOM.randrange(50):
            raise ValueError("the card was declined")


class Search:
    """Answers in tenths of a second."""

    def find(self) -> None:
        """Find nothing."""
        time.sleep(_RANDOM.uniform(0.05, 0.2))


class Thumbnailer:
    """Answers in seconds."""

    def make(self) -> None:
        """Make nothing."""
        time.sleep(_RANDOM.uniform(5, 9))


class Inventory:
    """Cannot reach its database."""

    def check_health(self) -> None:
        """Fail."""
        raise ConnectionError("no connection to db.internal:5432: refused")


#: Each service with its configuration.
SHOP: dict[str, tuple[type, dict[str, Any]]] = {
    "checkout": (Checkout, {"replicas": 3, "threading_strategy": "pool", "thread_pool_size": 4}),
    "search": (Search, {"replicas": 2, "threading_strategy": "pool", "thread_pool_size": 4}),
    "thumbnailer": (Thumbnailer, {"replicas": 2}),
    "inventory": (Inventory, {"replicas": 2, "health_check_interval": 1}),
}


@contextmanager
def shop(stop: threading.Event) -> Iterator[Server]:
    """Serve four services under load; one of them is not ready."""
    with Environment("shop") as env:
        for name, (service, config) in SHOP.items():
            balanced = {"load_balancing": True, **config}
            env.register_service_with_config(name, service, deployment_config=balanced)
        env.deploy()
        checkout, search, thumbnailer = map(env.service, ("checkout", "search", "thumbnailer"))
        with ThreadPoolExecutor() as callers, _served(env) as server:
            for call, pause in ((checkout.pay, 0.02), (checkout.pay, 0.02), (search.find, 0.2), (thumbnailer.make, 4)):
                callers.submit(_call, call, pause, stop)
            try:
                yield server
            finally:
                stop.set()


@contextmanager
def tutorial(stop: threading.Event) -> Iterator[Server]:
    """Serve the service of the tutorial with the file of its third step, under some load."""
    pages = import_module("documentation_pages")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as callers:
        # Backwards, so that the first file of a name stays.
        for block in reversed(pages.blocks(pages.TUTORIAL.read_text(encoding="utf-8"))):
            if block.name is not None:
                Path(folder, block.name).write_text(block.text, encoding="utf-8")
        sys.path.insert(0, folder)
        with Environment("search") as env, _served(env) as server:
            env.load_service_deployment_config(Path(folder, "search.yaml"))
            env.deploy()
            index = env.service("index")
            index.add("note", "the cat sat on the mat")
            callers.submit(_call, lambda: index.search("cat mat"), 0.1, stop)
            callers.submit(_call, lambda: index.similar("for"), 1, stop)
            try:
                yield server
            finally:
                stop.set()
        sys.path.remove(folder)


def _served(env: Environment) -> AbstractContextManager[Server]:
    return serve(env, "127.0.0.1:0", token=os.urandom(32).hex())


def _call(call: Callable[[], object], pause: float, stop: threading.Event) -> None:
    """Make a call every *pause* seconds on average."""
    while not stop.wait(_RANDOM.uniform(0, 2 * pause)):
        try:
            call()
        except (ValueError, SageDeployError):  # the dashboard counts them
            continue


# -- the pictures ------------------------------------------------------------------------------------------------------


class Picture:
    """One picture of one screen of the dashboard, in a browser that shows it from now on."""

    def __init__(self, name: str, page: Any, server: Server, screen: str) -> None:
        """Open the screen."""
        self._path, self._page = IMAGES / name, page
        page.goto(server.login_link(read_only=False))
        page.get_by_placeholder("Find").wait_for()
        page.goto(f"{server.url}/#/{screen}")
        page.get_by_text("live", exact=True).wait_for()

    def take(self) -> None:
        """Write it."""
        with Image.open(io.BytesIO(self._page.screenshot())) as file:
            picture = file.convert("RGB")
        # The commonest colours stay exact; Pillow's own choices tint the background.
        counts: Any = picture.getcolors(picture.width * picture.height)
        palette = Image.new("P", (1, 1))
        palette.putpalette([part for _, colour in sorted(counts, reverse=True)[:256] for part in colour])
        picture.quantize(palette=palette, dither=Image.Dither.NONE).save(self._path, optimize=True)
        size = self._path.stat().st_size
        print(f"{self._path.relative_to(ROOT)}: {size} bytes")
        assert size < LIMIT, f"{self._path} is too large"


def _page(browser: Any, height: int, scheme: str) -> Any:
    """Make an empty page of a browser that knows no cookie."""
    size = {"width": 1200, "height": height}
    return browser.new_context(viewport=size, color_scheme=scheme, locale="en-US").new_page()


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="time for the charts to fill; default: %(default)s")
    minutes = parser.parse_args().minutes
    stop = threading.Event()
    with ExitStack() as stack:
        shops, tutorials = stack.enter_context(shop(stop)), stack.enter_context(tutorial(stop))
        browser = stack.enter_context(import_module("chromium").chromium())
        light, dark, small = (_page(browser, *each) for each in ((760, "light"), (640, "dark"), (612, "light")))
        pictures = (
            Picture("dashboard-light.png", light, shops, "overview"),
            Picture("dashboard-dark.png", dark, shops, "services/checkout"),
            Picture("tutorial-dashboard.png", small, tutorials, "services/index"),
        )
        # Meanwhile the pages are open: without one, the server would record its metrics only once a minute.
        light.wait_for_timeout(60_000 * minutes)
        for picture in pictures:
            picture.take()


if __name__ == "__main__":
    main()
