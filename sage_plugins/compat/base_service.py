"""The base class that SAGE has for services."""

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
    A service as SAGE's programs write them; a class without a base does as well.

    Everything here works before `__init__` runs and without `super().__init__()`. The hooks `setup`, `start`, `stop`
    and `cleanup` do nothing by themselves; what a subclass has as `start_running` or `close` is called although `start`
    and `cleanup` are inherited.

    Attributes:
        ctx: What the instance knows of itself; None if it was made without sage-deploy, as in a test.
    """

    ctx: ServiceContext | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes whatever a subclass hands up, as SAGE's does, and does nothing."""

    @property
    def name(self) -> str:
        """Name of the service; without a context, that of the class."""
        return type(self).__name__ if self.ctx is None else self.ctx.name

    @property
    def logger(self) -> logging.Logger:
        """The logger of the service."""
        return logging.getLogger(f"sage.service.{self.name}") if self.ctx is None else self.ctx.logger

    @cached_property  # no property: a subclass may have an attribute of that name
    def metrics(self) -> OwnMetrics:
        """
        Metrics of the service's own, see `ServiceContext.metrics`.

        Without a context, or with one of SAGE's, they count as well, and nobody is shown them.
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
        """Like `call_service`, but gives a `concurrent.futures.Future` at once."""
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
        """Runs last. If it is inherited, `close` runs where the class has that, as it would without this base."""
        close = getattr(self, "close", None)
        if type(self).cleanup is BaseService.cleanup and callable(close):
            return close()  # of an `async def` the coroutine, which is run as that of any hook
        return None
