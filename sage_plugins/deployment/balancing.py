"""Holds the load balancer of one service, and replaces it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_plugins.errors import PluginError, text_of
from sage_plugins.routing.picking import make_balancer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sage_plugins.deployment.replicas.replica_set import ReplicaSet
    from sage_plugins.interfaces import Balancer
    from sage_plugins.planning.composition import Composition
    from sage_plugins.routing.observing import Observe
    from sage_plugins.service.call_key import KeyOf
    from sage_plugins.values import Choice, Where

__all__ = ["Balancing", "create_balancer"]


class _Made(NamedTuple):
    """A balancer that is ready to be used."""

    choice: Choice
    key_of: KeyOf | None
    balancer: Balancer | None
    observe: Observe | None


class Balancing:
    """
    The balancer of a service. Only one thread at a time may change it.

    Attributes:
        choice: The balancer; None if one replica serves and the others stand by.
        key_of: Computes the key of a call from its arguments; None without a balancer that names an argument.
    """

    def __init__(self, replicas: ReplicaSet) -> None:
        self._replicas = replicas
        self.choice: Choice | None = replicas.composition.balancer
        self.key_of: KeyOf | None = replicas.composition.key_of

    def chosen(self, id: str | None, options: Mapping[str, Any] | None) -> _Made:
        """
        Make the balancer *id*, or the default one, for `use`.

        Raises:
            UnknownPluginError: No plugin has that ID.
            PlanError, ConfigError: The options are wrong; the message says which.
            PluginError: The balancer cannot be made.
        """
        choice, key_of = self._replicas.composition.choose_balancer(id, options)
        return _Made(choice, key_of, *create_balancer(choice, self._replicas.composition.where))

    def use(self, made: _Made) -> None:
        """Use *made* from now on. Waiting calls stay in the queue."""
        self.choice, self.key_of = made.choice, made.key_of
        self._replicas.router.set_balancer(made.balancer, made.key_of, made.observe)

    def use_balancer_of(self, composition: Composition) -> None:
        """
        Use the balancer of *composition* from now on, or none if it has none.

        Raises:
            PluginError: The balancer cannot be made.
        """
        balancer, observe = create_balancer(composition.balancer, composition.where)
        self.choice, self.key_of = composition.balancer, composition.key_of
        self._replicas.router.set_balancer(balancer, self.key_of, observe)

    def continue_with(self, choice: Choice, key_of: KeyOf | None) -> None:
        """
        Use the balancer that an earlier process used, if it differs.

        Raises:
            PluginError: The balancer cannot be made.
        """
        if self.choice is None or self.choice[:2] != choice[:2]:
            self.use(_Made(choice, key_of, *create_balancer(choice, self._replicas.composition.where)))

    def failed(self, error: BaseException) -> None:
        """Report that the balancer raised *error*, so that the router no longer uses it."""
        choice = self.choice
        name = "" if choice is None else f"'{choice.id}' from {choice.source} "
        reason = f"load balancer {name}failed and is replaced by turns: {text_of(error)}"
        logging.getLogger("sage_plugins").warning("service '%s': %s", self._replicas.name, reason)
        self._replicas.monitors.tell("balancer_fenced", reason)


def create_balancer(choice: Choice | None, where: Where) -> tuple[Balancer | None, Observe | None]:
    """
    Return the balancer and its observer, as `make_balancer`.

    Raises:
        PluginError: The balancer cannot be made.
    """
    try:
        return make_balancer(choice, where)
    except Exception as error:
        assert choice is not None  # noqa: S101 - for the type checker
        msg = f"load balancer '{choice.id}' from {choice.source} cannot be made: {text_of(error)}"
        raise PluginError(msg) from error
