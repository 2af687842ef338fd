"""The documents that the services pass to each other."""

from __future__ import annotations

from typing import NamedTuple


class Document(NamedTuple):
    """
    The documentation of one module, class, function or method.

    Attributes:
        name: Where it is defined, such as `"tempfile.TemporaryDirectory.cleanup"`. Unique.
        kind: `"module"`, `"class"`, `"function"` or `"method"`.
        signature: How it is called, such as `"cleanup(self)"`; empty for a module.
        summary: The first sentence of the docstring, on one line.
        text: The whole docstring, without its indentation.
    """

    name: str
    kind: str
    signature: str
    summary: str
    text: str
