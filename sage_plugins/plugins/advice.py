"""Advises what to do about an ID that no plugin has, depending on what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sage_plugins.plugins.discovery import DISABLED_VARIABLE
from sage_plugins.plugins.hook_calls import KINDS
from sage_plugins.texts import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sage_plugins.plugins.discovery import Failure, Plugin

__all__ = ["advice"]

#: The IDs that extras of sage-deploy install, by kind. The usual ID comes first.
_EXTRAS: Final = {
    "ray": {"target": ("remote_any", "remote_specific", "cluster_group"), "options": ("ray",)},
}


def advice(  # noqa: PLR0913 - an ID, and all that is known about plugins
    kind: str,
    id: str,
    ids: Collection[str],
    *,
    own: Iterable[tuple[Plugin, str]] = (),
    failures: Sequence[Failure] = (),
    disabled: Sequence[Plugin] = (),
) -> str:
    """
    Return what to do, on one line; empty if no advice is known.

    Args:
        kind: The kind of the ID: a key of `KINDS`, `"options"` for options of a whole environment, or anything else for
            any kind.
        id: The unknown ID.
        ids: The known IDs.
        own: The known IDs with their plugins, in the order of registration.
        failures: The plugins that failed to load.
        disabled: The plugins that were not loaded because they are disabled.
    """
    if found := _of_extra(kind, id, ids, failures, disabled):
        return found
    near = did_you_mean(id, ids) or next(
        (
            each for plugin, each in own if each in ids and id in {plugin.name, plugin.distribution}
        ),  # somebody wrote the plugin's name instead of its ID
        None,
    )
    if near:
        return f"did you mean {near!r}?"
    if disabled:
        names = ", ".join(plugin.name for plugin in disabled)
        return f"is it of a plugin that {DISABLED_VARIABLE} disables? It names {names}"
    return ""


def _of_extra(kind: str, id: str, ids: Collection[str], failures: Sequence[Failure], disabled: Sequence[Plugin]) -> str:
    """Return what to do if *id* is the name of an extra or of an ID that an extra installs; "" if it is neither."""
    for extra, brings in _EXTRAS.items():
        offered = brings.get(kind, ()) if kind in {*KINDS, "options"} else sum(brings.values(), ())
        if not offered or id not in {extra, *offered}:
            continue
        hint = "" if id in offered else f"did you mean {offered[0]!r}? "
        if offered[0] in ids:
            return hint.strip()
        source = f"sage-deploy-{extra}"
        if any(plugin.distribution == source for plugin in disabled):
            return f"{hint}{source} is installed, but disabled: change {DISABLED_VARIABLE}"
        if any(failure.plugin.distribution == source for failure in failures):
            return f"{hint}{source} is installed, but failed to load: sage-deploy plugins list says why"
        return f"{hint}install it with: pip install 'sage-deploy[{extra}]'"
    return ""
