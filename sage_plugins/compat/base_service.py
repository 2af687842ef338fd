"""SAGE's base class for services."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sage_plugins.compat.errors import no_context

if TYPE_CHECKING:
    from sage_plugins.compat.callers import AsyncServiceCaller, ServiceCaller
    from sage_plugins.service.factory import ServiceContext
    from sage_plugins.service.own_metrics import OwnMetrics

__all__ = ["BaseService"]


class BaseService:
    """
    The base class of services in SAGE's programs. Services need no base class.

    Everything here works before `__init__` runs and without `super().__init__()`. The hooks `setup`, `start`, `stop`
    and `cleanup` do nothing by default. A subclass's `start_running` and `close` are called although `start` and
    `cleanup` are inherited.

    Attributes:
        ctx: The context of the instance; None if it was made without sage-deploy, for example in a test.
    """

    ctx: ServiceContext | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accept any arguments from a subclass, as in SAGE, and do nothing."""

    @property
    def name(self) -> str:
        """The service's name; without a context, name of the class."""
        return type(self).__name__ if self.ctx is None else self.ctx.name

    @property
    def logger(self) -> logging.Logger:
        """The logger of the service."""
        return logging.getLogger(f"sage.service.{self.name}") if self.ctx is None else self.ctx.logger

    @cached_property  # not a property, so that a subclass can set an attribute of that name
    def metrics(self) -> OwnMetrics:
        """
        The service's own metrics, see `ServiceContext.metrics`.

        Without a context, or with one of SAGE's, they also count, but are shown nowhere.
        """
        found: OwnMetrics | None = getattr(self.ctx, "metrics", None)
        if found is None:
            from sage_plugins.service.own_metrics import OwnMetrics

            found = OwnMetrics()
        return found

    @property
    def call_service(self) -> ServiceCaller:
        """
        Calls another service: `call_service("kv", "k", method="get")`, or `call_service["kv"].get("k")`.

        Raises:
            RuntimeError: There is no context.
        """
        return self._context().call_service

    @property
    def call_service_async(self) -> AsyncServiceCaller:
        """As `call_service`, but returns a `concurrent.futures.Future` at once."""
        return self._context().call_service_async

    def _context(self) -> ServiceContext:
        if self.ctx is None:
            raise no_context(type(self))
        return self.ctx

    def setup(self) -> None:
        """Runs after the constructor."""

    def start(self) -> None:
        """Runs after `setup`, unless the class has `start_running`."""

    def stop(self) -> None:
        """Runs when the service stops."""

    def cleanup(self) -> Any:
        """Runs last. If a subclass has `close` and does not override `cleanup`, this calls `close`."""
        close = getattr(self, "close", None)
        if type(self).cleanup is BaseService.cleanup and callable(close):
            return close()  # for an `async def`, the coroutine, which is then run as for any hook
        return None
