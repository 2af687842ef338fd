"""Service classes of every shape in SAGE's programs, and a factory like SAGE's."""

from __future__ import annotations

from sage_plugins.compat import BaseService


class PlainKV:
    """No base class, and nothing of SAGE."""

    def __init__(self, backend="memory"):
        self.backend = backend
        self.data = {}

    def put(self, key, value):
        self.data[key] = value
        return True

    def get(self, key):
        return self.data.get(key)


class BasedKV(BaseService):
    """With the base class, whose constructor is called."""

    def __init__(self, backend="memory"):
        super().__init__()
        self.backend = backend
        self.data = {}
        self.seen = (self.name, self.logger.name, self.ctx.name)

    def put(self, key, value):
        self.logger.debug("put %s", key)
        self.data[key] = value
        return True

    def get(self, key):
        return self.data.get(key)


class NoSuperKV(BasedKV):
    """With the base class, whose constructor is not called, as in SAGE's tutorials."""

    def __init__(self, backend="memory"):
        self.backend = backend
        self.data = {}
        self.seen = (self.name, self.logger.name, self.ctx.name)


class SlottedKV:
    """Without `__dict__`, so that `ctx` cannot be set."""

    __slots__ = ("backend", "data")

    def __init__(self, backend="memory"):
        self.backend = backend
        self.data = {}

    def put(self, key, value):
        self.data[key] = value
        return True

    def get(self, key):
        return self.data.get(key)


class LegacyKV(BaseService):
    """Like SAGE's own KVService: takes its factory, and expects what its task provided."""

    def __init__(self, service_factory, ctx=None):
        super().__init__(service_factory, ctx)
        self.config = getattr(service_factory, "config", {"max_size": 10})
        self.backend = "memory"
        self.data = {}
        self.seen = (self.name, self.service_name, ctx is self.ctx)

    def put(self, key, value):
        self.data[key] = value
        return True

    def get(self, key):
        return self.data.get(key)

    def stats(self):
        base = self.get_statistics()
        base.update(max_size=self.config["max_size"])
        return base


SHAPES = [PlainKV, BasedKV, NoSuperKV, SlottedKV, LegacyKV]


class SagesFactory:
    """Like SAGE's factory: calls `__new__`, sets the context, calls `__init__`. Pickling drops other attributes."""

    def __init__(self, service_name, service_class, service_args=(), service_kwargs=None):
        self.service_name = service_name
        self.service_class = service_class
        self.service_args = service_args
        self.service_kwargs = service_kwargs or {}

    def create_service(self, ctx=None):
        service = self.service_class.__new__(self.service_class)
        service.ctx = ctx
        service.__init__(*self.service_args, **self.service_kwargs)
        return service

    def __getstate__(self):
        names = ("service_name", "service_class", "service_args", "service_kwargs")
        return {name: getattr(self, name) for name in names}
