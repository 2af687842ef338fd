"""What a replica in its own process says to its callers, and with which letter."""

from __future__ import annotations

import threading

import loop_target
import sage_deploy_balancers
import sage_deploy_monitors
import sage_deploy_threading
from sage_deploy_ray import parcel, protocol
from sage_deploy_ray.protocol import CallItem, Frame, Unit
from sage_plugins import Environment, ServiceDeploymentConfig
from sage_plugins.plugins import Registry

REGISTRY = Registry.of(sage_deploy_balancers, sage_deploy_monitors, sage_deploy_threading, loop_target.Plugin())
OPEN = threading.Event()


class Service:
    def hold(self):
        return OPEN.wait(20)

    def echo(self, value):
        return value


def test_an_answer_never_comes_with_a_letter_to_an_earlier_frame(monkeypatch):
    """A caller who waits for the letter to its own frame would not learn of it, and wait until its deadline."""
    OPEN.clear()
    servers = []
    start = loop_target.LoopTransport.start
    monkeypatch.setattr(
        loop_target.LoopTransport,
        "start",
        lambda self, spec, receiver: (start(self, spec, receiver), servers.append(self.server)),
    )
    with Environment("test", registry=REGISTRY) as env:
        config = ServiceDeploymentConfig(target="loop", threading_strategy="multi", thread_count=2)
        env.register_service_with_config("svc", Service, deployment_config=config)
        env.deploy()
        (server,) = servers
        indexes = {method.name: method.index for method in server.spec.methods}

        def frame(number, method=None, *args):
            item = CallItem(number, indexes[method], parcel.write((args, {})), 0.0, 20.0) if method else None
            return Frame("another", number, (Unit(number, (item,)),) if item else (), ())

        def exchange_aside(*what):
            thread = threading.Thread(target=server.exchange, args=(frame(*what),))
            thread.start()
            return thread

        # Frames are taken in the order of their numbers, so each of these exchanges waits when the next frame is taken.
        waiting = [exchange_aside(0, "hold")]
        for number in range(1, 100, 2):
            waiting.append(exchange_aside(number))
            letter = server.exchange(frame(number + 1, "echo", number))
            assert [reply[:2] for reply in letter.replies] == [(protocol.DONE, number + 1)]
        OPEN.set()
        for thread in waiting:
            thread.join()
