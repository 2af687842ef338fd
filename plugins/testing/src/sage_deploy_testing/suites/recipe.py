"""Creates the objects of a plugin under test, for cases that test one object alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_plugins.config.structure import structure

if TYPE_CHECKING:
    from collections.abc import Callable

    from sage_deploy_testing.suites.conformance import Conformance
    from sage_plugins.values import Where

__all__ = ["make", "recipe"]


def recipe(suite: Conformance) -> tuple[Callable[..., Any], Any]:
    """
    Return the `create` of the plugin that *suite* tests, and the options for it.

    Raises:
        AssertionError: The suite's options are not valid.
    """
    registration = suite.registry().find(suite.kind, suite.plugin_id).registration
    options_class = registration.options_class()
    if options_class is None:
        assert not suite.options, f"{suite.plugin_id!r} has no options"
        return registration.create, None
    options, problems = structure(options_class, dict(suite.options), key=f"options.{suite.plugin_id}")
    assert not problems, "\n".join(map(str, problems))
    return registration.create, options


def make(suite: Conformance, *where: Where) -> Any:
    """Return a new object of the plugin that *suite* tests. Give *where* for a load balancer."""
    create, options = recipe(suite)
    return create(options, *where)
