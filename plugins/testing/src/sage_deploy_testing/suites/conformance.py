"""
The base of the conformance suites: selects cases by capability, and checks each case for leaks.

A suite is a class, and each of its methods is one case. A plugin's own tests inherit the class and get every case:

    class TestMine(StrategyConformance):
        plugin_id = "mine"

A case is skipped if it needs a capability that the plugin does not declare. The skip reason starts with "declared
unsupported".
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import pytest

from sage_deploy_testing.tools import leak_guard
from sage_plugins.plugins.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Conformance", "needs", "needs_any", "unless"]

_Case = TypeVar("_Case", bound="Callable[..., Any]")

_NEEDS: Final = "__sage_needs__"
_NEEDS_ANY: Final = "__sage_needs_any__"
_UNLESS: Final = "__sage_unless__"


def needs(*capabilities: str) -> Callable[[_Case], _Case]:
    """Run the case only for plugins that declare all of *capabilities*."""
    return _note(_NEEDS, capabilities)


def needs_any(*capabilities: str) -> Callable[[_Case], _Case]:
    """Run the case only for plugins that declare at least one of *capabilities*."""

    def mark(case: _Case) -> _Case:
        if isinstance(case, type):
            msg = f"{case.__name__} is a class: mark each of its cases"
            raise TypeError(msg)
        setattr(case, _NEEDS_ANY, capabilities)
        return case

    return mark


def unless(*capabilities: str) -> Callable[[_Case], _Case]:
    """Run the case only for plugins that declare none of *capabilities*."""
    return _note(_UNLESS, capabilities)


def _note(attribute: str, capabilities: tuple[str, ...]) -> Callable[[_Case], _Case]:
    def mark(case: _Case) -> _Case:
        setattr(case, attribute, (*getattr(case, attribute, ()), *capabilities))
        return case

    return mark


#: The distributions whose plugins are available in every suite, in addition to the one under test.
_FIRST_PARTY: Final = frozenset(
    {
        "sage-deploy-autoscalers",
        "sage-deploy-balancers",
        "sage-deploy-local",
        "sage-deploy-monitors",
        "sage-deploy-threading",
    }
)


@cache
def installed_with(kind: str, id: str) -> Registry:
    """
    Return the plugins of the distribution that has the plugin *id*, and the first-party ones.

    Other installed plugins do not affect the plugin under test. Discovery runs once per process.
    """
    wanted = {Registry.discover().find(kind, id).plugin.distribution, *_FIRST_PARTY}
    return Registry.discover(lambda plugin: plugin.distribution in wanted)


class Conformance:
    """
    Base of the suites. Pytest collects a subclass whose name begins with `Test`.

    Attributes:
        kind: The kind of plugin under test, as registries call it, for example `"threading strategy"`.
        known: The capabilities that plugins of this kind can declare, and what each promises.
        plugin_id: The ID of the plugin under test.
        options: Its options, as in a service's `options: {<id>: ...}`.
    """

    kind: ClassVar[str]
    known: ClassVar[Mapping[str, str]]
    plugin_id: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    def registry(self) -> Registry:
        """
        Return the available plugins: those of the distribution under test, and the first-party ones.

        Override it to test a plugin that is not installed, or to combine it with others.
        """
        return installed_with(self.kind, self.plugin_id)

    def declared(self) -> Mapping[str, str]:
        """Return the declared capabilities, each with the ID of the plugin that declares it."""
        capabilities = self.registry().find(self.kind, self.plugin_id).registration.capabilities
        return dict.fromkeys(capabilities, self.plugin_id)

    def declares(self, *capabilities: str) -> bool:
        """Return whether all of *capabilities* are declared."""
        return self.declared().keys() >= set(capabilities)

    def plugin_for(self, capability: str) -> str:  # noqa: ARG002 - for suites that run several plugins together
        """Return the ID of the plugin that would have to declare *capability*."""
        return self.plugin_id

    def unsupported(self, case: Callable[..., Any]) -> str | None:
        """Return why *case* does not apply, or None if it does."""
        declared = self.declared()
        for capability in getattr(case, _NEEDS, ()):
            self._check_known(capability)
            if capability not in declared:
                return f"declared unsupported: {self.plugin_for(capability)!r} does not declare {capability!r}"
        some = getattr(case, _NEEDS_ANY, ())
        for capability in some:
            self._check_known(capability)
        if some and declared.keys().isdisjoint(some):
            which = " nor ".join(repr(capability) for capability in some)
            return f"declared unsupported: {self.plugin_for(some[0])!r} declares neither {which}"
        for capability in getattr(case, _UNLESS, ()):
            self._check_known(capability)
            if capability in declared:
                return f"declared unsupported: {declared[capability]!r} declares {capability!r}"
        return None

    def _check_known(self, capability: str) -> None:
        assert capability in self.known, f"no plugin of this kind can declare {capability!r}: {', '.join(self.known)}"

    @pytest.fixture
    def _chosen(self) -> None:
        """Set what a suite varies from case to case. Runs before the suite decides whether the case applies."""

    @pytest.fixture(autouse=True)
    def _applies(self, request: pytest.FixtureRequest, _chosen: None) -> None:
        reason = self.unsupported(request.function)
        if reason is not None:
            pytest.skip(reason)

    @pytest.fixture(autouse=True)
    def _leaves_nothing(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Run the leak guard, also if its pytest plugin is not active."""
        if request.config.pluginmanager.hasplugin(leak_guard.NAME):
            yield
            return
        with leak_guard.guard(request.node):
            yield

    def test_declared_capabilities(self) -> None:
        """The plugin declares only known capabilities; `pytest -rP` lists them and the cases that do not apply."""
        declared = self.declared()
        unknown = sorted(set(declared) - set(self.known))
        assert not unknown, f"unknown capabilities: {', '.join(unknown)}; known are {', '.join(self.known)}"
        lines = [f"{capability}: {self.known[capability]}" for capability in sorted(declared)]
        cases = (getattr(self, name) for name in dir(self) if name.startswith("test_"))
        lines += [f"{case.__name__} is not run, {reason}" for case in cases if (reason := self.unsupported(case))]
        print(*lines, sep="\n")  # noqa: T201 - for pytest's report
