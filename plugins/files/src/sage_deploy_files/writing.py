"""
Writes what a deployment file came to, as a deployment file: profile, defaults and variables put in, units worked out.

Reading what is written gives an equal `DeploymentFile`, unless it is larger than a file may be: what anchors, merge
keys and defaults share in a file is written out for each service.
"""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING, Any, Final

from sage_plugins.config.service_config import GROUPS, fields, plain

if TYPE_CHECKING:
    from sage_deploy_files.reading.entries import DeploymentFile, ServiceEntry

__all__ = ["dump"]

#: Texts that every reader of YAML, of any version, takes for the same string when they have no quotes.
_BARE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(:[A-Za-z0-9_./]+)*")
_NEVER_BARE: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def dump(file: DeploymentFile) -> str:
    """
    The text of a deployment file that says what *file* came to; secrets stand in it as in the file itself.

    Args:
        file: A file that was read.
    """
    document: dict[str, Any] = {"version": 1}
    if file.options:
        document["options"] = plain(file.options)
    document["services"] = {name: _entry(entry) for name, entry in file.services.items()}
    import yaml  # imported here: 20 ms

    text: str = yaml.dump(
        _literal(document),
        Dumper=_dumper(),
        sort_keys=False,
        allow_unicode=True,
        width=math.inf,
        default_flow_style=False,
    )
    return text


def _entry(entry: ServiceEntry) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if entry.class_path is not None:
        said["class"] = entry.class_path
    init = {"args": plain(entry.args), "kwargs": plain(entry.kwargs)}
    if any(init.values()):
        said["init"] = {name: value for name, value in init.items() if value}
    values: dict[str, Any] = plain(entry.values)
    for group in GROUPS:
        grouped = {name: values.pop(name) for name, info in fields().items() if info.group == group and name in values}
        if grouped:
            said[group] = grouped
    return said | values


def _literal(value: Any) -> Any:
    """The value with every text in it, keys aside, written so that a reader finds no variable of the environment."""
    if isinstance(value, dict):
        return {name: _literal(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_literal(child) for child in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


@functools.cache
def _dumper() -> Any:
    from yaml import SafeDumper

    class Dumper(SafeDumper):
        """Quotes every string that some version of YAML might take for something else; writes no aliases."""

        def ignore_aliases(self, _data: Any) -> bool:
            return True

    def string(dumper: Any, text: str) -> Any:
        is_bare = _BARE.fullmatch(text) and text.lower() not in _NEVER_BARE
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_bare else '"')

    def number(dumper: Any, value: float) -> Any:
        text = ".nan" if math.isnan(value) else repr(value).replace("inf", ".inf")
        # Readers of YAML 1.1 take a number without a point for a string.
        text = text if "." in text else text.replace("e", ".0e")
        return dumper.represent_scalar("tag:yaml.org,2002:float", text)

    Dumper.add_representer(str, string)
    Dumper.add_representer(float, number)
    return Dumper
