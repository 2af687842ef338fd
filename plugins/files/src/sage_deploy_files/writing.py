"""
Writes a deployment file with profile, defaults and variables filled in, and units converted.

Reading the result gives an equal `DeploymentFile`. One exception: anchors, merge keys and defaults are written out for
each service, so the result may be larger than a file may be.
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

#: Strings that every reader of YAML, of any version, reads as the same string without quotes.
_BARE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(:[A-Za-z0-9_./]+)*")
_NEVER_BARE: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def dump(file: DeploymentFile) -> str:
    """
    Return the text of a deployment file that says the same as *file*, secrets included.

    Args:
        file: A file that was read.
    """
    document: dict[str, Any] = {"version": 1}
    if file.options:
        document["options"] = plain(file.options)
    document["services"] = {name: _entry(entry) for name, entry in file.services.items()}
    import yaml  # imported here because it takes 20 ms

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
    """Return the value with `${` escaped in every text except keys, so that readers find no variables."""
    if isinstance(value, dict):
        return {name: _literal(child) for name, child in value.items()}
    if isinstance(value, list):
        return [_literal(child) for child in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


@functools.cache
def _dumper() -> Any:
    from yaml import SafeDumper

    class Dumper(SafeDumper):
        """Quotes every string that some version of YAML might read as something else. Writes no aliases."""

        def ignore_aliases(self, _data: Any) -> bool:
            return True

    def string(dumper: Any, text: str) -> Any:
        is_bare = _BARE.fullmatch(text) and text.lower() not in _NEVER_BARE
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_bare else '"')

    def number(dumper: Any, value: float) -> Any:
        text = ".nan" if math.isnan(value) else repr(value).replace("inf", ".inf")
        # Readers of YAML 1.1 read a number without a point as a string.
        text = text if "." in text else text.replace("e", ".0e")
        return dumper.represent_scalar("tag:yaml.org,2002:float", text)

    Dumper.add_representer(str, string)
    Dumper.add_representer(float, number)
    return Dumper
