"""A target in this process whose replicas outlive their environment. The next environment takes them over."""

from __future__ import annotations

import weakref

from loop_target import LoopTransport
from memory_directory import Book, MemoryTarget
from sage_deploy_remote.link.replica import RemoteReplica
from sage_deploy_remote.reach.snapshot import ReplicaSnapshot, ServiceSnapshot
from sage_deploy_remote.shipping.specs import pack_spec, unpack_spec
from sage_plugins import hookimpl
from sage_plugins.errors import DeployError
from sage_plugins.interfaces import KeptReplica, KeptService
from sage_plugins.values import Registration


class World:
    """
    State that outlives environments.

    Attributes:
        running: Transports of replicas by service, then by index and generation.
        specs: Packed specs of the services.
        holder: ID of the environment that holds the services.
        book: The directory in which other environments find them.
    """

    def __init__(self):
        self.running = {}
        self.specs = {}
        self.holder = None
        self.book = Book()

    def deployed(self):
        """Return the services that were not stopped."""
        listings = self.book.listings
        return [each for each in self.specs if each not in listings or not listings[each].stopped]

    def ended(self, transport):
        for replicas in self.running.values():
            for key in [key for key, found in replicas.items() if found is transport]:
                del replicas[key]

    def stop(self):
        for replicas in self.running.values():
            for transport in tuple(replicas.values()):
                transport.server.stop(1)


class Transport(LoopTransport):
    """A transport that starts a replica."""

    def __init__(self, world, *args):
        super().__init__(*args)
        self.world = world
        self.address = self
        self.others = weakref.WeakSet()

    def start(self, spec, receiver):
        self.world.specs[spec.service] = pack_spec(spec._replace(find_service=None))
        self.world.running.setdefault(spec.service, {})[spec.index, spec.generation] = self
        super().start(spec._replace(find_service=None), receiver)

    def vacate(self):
        return lambda _: None

    def stop(self, grace):
        self.world.ended(self)
        return super().stop(grace)


class Adopted(Transport):
    """A transport to a replica that already runs."""

    def __init__(self, other, *args):
        super().__init__(other.world, *args)
        self.other = other
        self.server = other.server

    def start(self, spec, receiver):
        self.receiver = receiver
        self.world.running[spec.service][spec.index, spec.generation] = self
        self.run_quick(lambda: receiver.started(self.server.host.slots))


class KeepingTarget(MemoryTarget):
    def __init__(self, world):
        super().__init__(world.book)
        self.world = world

    def start(self, spec, at, events, clock):
        transport = Transport(self.world, self.responses(), events.service)
        return RemoteReplica(spec, at.node, events, clock, transport)

    def adopt(self, spec, found, events, clock):
        transport = Adopted(found.address, self.responses(), events.service)
        return RemoteReplica(spec, found.node, events, clock, transport)

    def keeper(self, environment, name):
        self.held = environment, name
        return Keeper(self.world, environment, name)

    def close(self):
        if self.world.holder == getattr(self, "held", (None,))[0]:
            self.world.holder = None
        super().close()


class Keeper:
    def __init__(self, world, holder, name):
        self.world = world
        self.holder = holder
        self.environment = f"kept/{name}"

    def hold(self):
        if self.world.holder not in {None, self.holder}:
            raise DeployError("another one has it")
        self.world.holder = self.holder

    def look(self):
        held_by = self.world.holder or ""
        return {
            service: KeptService(held_by, None, [KeptReplica(f"{service}#{each}", "loop", 1) for each, _ in running])
            for service, running in self.world.running.items()
            if service in self.world.deployed()
        }

    def deployed(self):
        self.hold()
        return {service: unpack_spec(self.world.specs[service]) for service in self.world.deployed()}

    def snapshot(self, service):
        self.hold()
        if service not in self.world.deployed():
            return None
        found = [
            ReplicaSnapshot(index, generation, "loop", transport)
            for (index, generation), transport in sorted(self.world.running[service].items())
        ]
        return ServiceSnapshot(
            unpack_spec(self.world.specs[service]), tuple(found), self.world.book.listings.get(service)
        )


class Plugin:
    """Registers the target `keeping`."""

    def __init__(self):
        self.world = World()

    @hookimpl
    def sage_register_targets(self):
        capabilities = frozenset({"reachable", "detaches"})
        return [Registration("keeping", lambda _: KeepingTarget(self.world), "It stays", capabilities=capabilities)]
