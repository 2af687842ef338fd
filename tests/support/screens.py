"""What holds for each screen of a page: axe finds no serious fault in light and dark, and it fits 360 pixels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["each_screen", "faults_of_look"]

AXE = Path(__file__).parents[1] / "server" / "vendor" / "axe.min.js"

#: What dark can break after light: the two differ only in colours.
RULES_OF_COLOURS = ["color-contrast", "link-in-text-block"]


def each_screen(page: Any, screens: Mapping[str, str]) -> Iterator[str]:
    """Show each of *screens*, addresses with their headings, in the open page; yield the address once it is drawn."""
    document = page.url.partition("#")[0]
    for screen, heading in screens.items():
        page.goto(f"{document}#/{screen}")
        page.get_by_role("heading", name=re.compile(rf"^{heading}( |$)")).first.wait_for()
        page.get_by_text("Loading ...").wait_for(state="detached")
        yield screen


def faults_of_look(page: Any) -> list[Any]:
    """Return the serious faults that axe finds in what the page shows, in light and dark, and its width if not 360."""
    if page.evaluate("!window.axe"):
        page.evaluate(AXE.read_text("utf-8"))
    page.emulate_media(color_scheme="light")
    found = page.evaluate("axe.run().then((found) => found.violations)")
    page.emulate_media(color_scheme="dark")
    found += page.evaluate(f"axe.run({{ runOnly: {RULES_OF_COLOURS} }}).then((found) => found.violations)")
    bad = [each for each in found if each["impact"] in {"serious", "critical"}]
    size = page.viewport_size
    page.set_viewport_size({"width": 360, "height": 740})
    width = page.evaluate("document.documentElement.scrollWidth")
    page.set_viewport_size(size)
    wide = [] if width == 360 else [("width", width)]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in bad] + wide
