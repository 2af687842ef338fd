"""A service whose replicas return their index, with a monitor and balancers that record what they see."""

from __future__ import annotations

from sage_plugins.interfaces import QuietMonitor


class Numbered:
    """A replica that returns its index."""

    def index(self):
        return self.ctx.replica_index

    def echo(self, value):
        return value

    def run(self, function, *args):
        return function(*args)


class Noted(QuietMonitor):
    """A monitor that records every event and the service that it is attached to."""

    def __init__(self):
        self.events = []
        self.service = None

    def event(self, event):
        self.events.append(event)

    def attach(self, service):
        self.service = service

    def of(self, kind):
        return [(event.replica, event.reason) for event in tuple(self.events) if event.kind == kind]


class FirstOfAll:
    """A binding balancer: every call goes to the first replica."""

    binding = True

    def picker(self, candidates):
        return lambda _key, _method: candidates[0]


class LastOfAll(FirstOfAll):
    def picker(self, candidates):
        return lambda _key, _method: candidates[-1]


class Counted(LastOfAll):
    def __init__(self, composed):
        self.composed = composed

    def picker(self, candidates):
        self.composed.append(len(candidates))
        return super().picker(candidates)


def ids(service):
    return [each["id"] for each in service.env.get_service_status("svc")["replicas"]]
