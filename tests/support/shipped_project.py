"""A project's modules, and replicas of its classes in a process that does not have them."""

from __future__ import annotations

import importlib
from textwrap import dedent
from typing import TYPE_CHECKING, Any

from sage_plugins import ServiceDeploymentConfig, ServiceFactory
from sage_plugins.values import Choice, Limits, Registration, ReplicaSpec

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


PROJECT = {
    "shop/__init__.py": "",
    "shop/points.py": """
        import enum
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: int

        class Colour(enum.Enum):
            RED = 1

        class ShopError(Exception):
            def __init__(self, text, code):
                super().__init__(text)
                self.code = code

        MISSING = object()

        def double(point):
            return Point(point.x * 2)
    """,
    "shop/late.py": "WORD = 'imported while a method runs'",
    "shop/service.py": """
        import threading
        from functools import lru_cache

        import loose
        from .points import Colour, Point, ShopError, double

        LOCK = threading.Lock()  # cannot be pickled, and need not be

        @lru_cache
        def cached(x):
            return Point(x)

        class Shop:
            def __init__(self, origin, made=None):
                self.origin = origin
                self.made = made

            def check(self, point, colour, function, cls):
                with LOCK:
                    assert isinstance(point, Point)
                    assert colour is Colour.RED
                    assert function is double
                    assert cls is ShopError
                    assert isinstance(self.origin, Point)
                    return [cached(point.x), colour, function, cls]

            def late(self):
                from . import late
                return late.WORD, loose.NUMBER

            def fail(self, code):
                raise ShopError("sold out", code) from ShopError("inner", 2)

            def where(self):
                return __file__, Point.__module__

            def run(self, function, *args):
                return function(*args)
    """,
    "loose.py": "NUMBER = 5",
    "spaces/inner/names.py": """
        class Named:
            pass
    """,
    "broken.py": """
        import sys
        if "pytest" not in sys.modules:
            sys.exit(3)
        class Service:
            pass
    """,
    "needs.py": """
        import sys
        if "pytest" in sys.modules:
            sys.modules["only_here"] = sys
        import only_here
        class Service:
            pass
    """,
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    return folder


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def make_nothing(options: Any) -> Any:
    """The `create` function of a plugin defined in a test."""
    return options


class Plugin:
    source = "a test's"


def spec_of(cls: type, *args: Any, strategy: Choice | None = None, **kwargs: Any) -> ReplicaSpec:
    strategy = strategy or Choice(Registration("mine", make_nothing, "For tests."), None, Plugin())
    factory = ServiceFactory("svc", cls, args, kwargs)
    return ReplicaSpec("svc", 0, factory, strategy, Limits(1, None, 100), (), (), ServiceDeploymentConfig())
