"""
Reads deployment files, with the place of every value, and describes what they may contain.

Names are imported on first use, because a process whose services are all registered in code reads no file.
Imports the core's root modules, `config`, `service` and `plugins`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.hookspecs import hookimpl
from sage_plugins.values import Registration

if TYPE_CHECKING:
    from sage_deploy_files.reading.entries import DeploymentFile, ServiceEntry
    from sage_deploy_files.reading.problems import FileProblem, Position
    from sage_deploy_files.reading.reader import read
    from sage_deploy_files.writing import dump

__all__ = ["DeploymentFile", "FileProblem", "Position", "ServiceEntry", "dump", "read", "sage_register_readers"]

_HOMES: Final = {
    "DeploymentFile": "reading.entries",
    "FileProblem": "reading.problems",
    "Position": "reading.problems",
    "ServiceEntry": "reading.entries",
    "dump": "writing",
    "read": "reading.reader",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def _create_yaml(_options: None) -> Any:
    from sage_deploy_files.reading.reader import YamlReader

    return YamlReader()


@hookimpl
def sage_register_readers() -> list[Registration]:
    """Offer the reader of YAML files."""
    return [Registration("yaml", _create_yaml, "Reads services from a YAML file, with a place for every value")]
