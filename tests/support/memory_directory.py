"""A directory without Ray, and a target in this process whose services are found there as if by another process."""

from __future__ import annotations

import threading
import weakref
from math import inf

from loop_target import Line, LoopTarget, LoopTransport
from sage_deploy_remote.driver.address import DriverAddress
from sage_deploy_remote.driver.transport import DriverTransport
from sage_deploy_remote.link.dispatcher import Dispatcher
from sage_deploy_remote.link.replica import RemoteReplica
from sage_deploy_remote.reach.listing import Found
from sage_deploy_remote.reach.target import DirectoryTarget
from sage_plugins import hookimpl
from sage_plugins.values import Registration


class Book:
    """The content of all directories of this process. Each test has one."""

    books = weakref.WeakValueDictionary()  # noqa: RUF012 - of all tests

    def __init__(self):
        self.books[id(self)] = self
        self.known = {}
        self.listings = {}
        self.told = {}  # callbacks of those who wait for a change, by service
        self.gone = False
        self.certificates = None
        self.waiting = {}  # number of waiting calls, by caller
        self.woken = {}  # callbacks for waiting calls of services without replicas
        self.seen = []  # versions for which the owner has waited
        self.lock = threading.RLock()

    def publish(self, listing):
        with self.lock:
            before = self.listings.get(listing.service)
            if before is not None and (listing.incarnation, listing.version) < (before.incarnation, before.version):
                return
            self.listings[listing.service] = listing
            told = self.told.pop(listing.service, [])
        for tell in told:
            tell(self.found(listing.service))

    def found(self, service):
        return None if self.gone else Found(self.listings.get(service), self.known)

    def lose(self):
        """Lose the directory."""
        with self.lock:
            self.gone = True
            told, self.told = self.told, {}
        for tells in told.values():
            for tell in tells:
                tell(None)


class MemoryDirectory:
    def __init__(self, book, environment):
        self.book = book
        self.environment = environment

    def announce(self, known):
        self.book.known.update(known)

    def repeat(self, known):
        self.book.known.update(known)
        return True

    def host(self):
        return None

    def certificates(self):
        return self.book.certificates

    def within_reach(self):
        return True

    def publish(self, listing):
        self.book.publish(listing)

    def wait_seen(self, service, version, timeout):
        self.book.seen.append(version)

    def watch_woken(self, service, tell):
        self.book.woken[service] = tell

    def ask_waiting(self, service, tell):
        tell(sum(self.book.waiting.values()))

    def awaited(self, service, timeout):
        return ()

    def open(self, service):
        return ServiceAccess(self.book, service)

    def __eq__(self, other):
        return isinstance(other, MemoryDirectory) and other.environment == self.environment

    def __hash__(self):
        return hash(self.environment)

    def __reduce__(self):
        return _unpickled, (id(self.book), self.environment)


def _unpickled(book, environment):
    return MemoryDirectory(Book.books[book], environment)


class ServiceAccess:
    def __init__(self, book, service):
        self.book = book
        self.service = service
        self.responses, self.changes = Line(f"{service}-responses"), Line(f"{service}-changes")
        self.dispatcher = Dispatcher(service)

    def look_up(self, seen, timeout, starting=""):
        found = self.book.found(self.service)
        waits_for_itself = starting == self.service and found is not None and found.listing is None
        return found._replace(circle=(starting, starting)) if waits_for_itself else found

    def watch(self, seen, tell):
        with self.book.lock:
            listing = self.book.listings.get(self.service)
            if not self.book.gone and (listing is None or listing.version == seen):
                tells = self.book.told.setdefault(self.service, [])
                tells.append(lambda found: self.changes.put(lambda: tell(found)))
                return
        self.changes.put(lambda: tell(self.book.found(self.service)))

    def report(self, waiting):
        self.book.waiting[self] = waiting

    def wake(self, seen):
        listing = self.book.listings.get(self.service)
        woken = listing.version == seen
        tell = self.book.woken.pop(self.service, None) if woken else None
        if tell is not None:
            self.changes.put(lambda: tell(woken))

    def attach(self, replica, events, clock):
        if isinstance(replica.address, DriverAddress):
            transport = DriverTransport(self.dispatcher, lambda: self.book.certificates)
        else:
            transport = Attached(replica.address, self.responses)
        found = RemoteReplica(replica, replica.node, events, clock, transport)
        found.slots = replica.slots
        return found

    def close(self):
        self.responses.end()
        self.changes.end()
        self.dispatcher.close()


class Attached(LoopTransport):
    def __init__(self, owner, responses):
        super().__init__(responses, None)
        self.owner = owner

    def start(self, spec, receiver):
        self.receiver = receiver
        self.server = self.owner.server
        self.owner.others.add(receiver)

    def ask_to_stop(self):
        raise AssertionError("a caller stops no replica")

    def stop(self, grace):
        raise AssertionError("a caller stops no replica")


class Transport(LoopTransport):
    def start(self, spec, receiver):
        self.address = self
        self.others = weakref.WeakSet()
        super().start(spec, receiver)

    def vacate(self):
        vacated = threading.Thread(target=self.server.vacate, name="loop-vacate", daemon=True)
        vacated.start()
        return vacated.join

    def stop(self, grace):
        stopped = super().stop(grace)
        for receiver in self.others:
            receiver.lost(ChildProcessError("it was stopped"))
        self.end_threads()
        return stopped

    def end_threads(self):
        """End the threads that wait for something to report, as the end of a process does."""
        for mailbox in self.server.callers.mailboxes:
            with mailbox._mutex:
                mailbox._answered = inf
                mailbox._condition.notify_all()

    def die(self):
        """End as if killed by a signal."""
        self.die_to_others(ChildProcessError("it was killed"))
        self.receiver.lost(ChildProcessError("it was killed"))
        self.server.stop(0)

    def die_to_others(self, error):
        for receiver in tuple(self.others):
            receiver.lost(error)


class MemoryTarget(LoopTarget, DirectoryTarget):
    transports: dict = {}  # noqa: RUF012 - of all targets, by replica ID

    def __init__(self, book):
        super().__init__()
        self.book = book

    def start(self, spec, at, events, clock):
        transport = self.transports[spec.id] = Transport(self.responses(), events.service)
        return RemoteReplica(spec._replace(find_service=None), at.node, events, clock, transport)

    def directory(self, environment):
        return MemoryDirectory(self.book, environment)


class Plugin:
    def __init__(self):
        self.book = Book()

    @hookimpl
    def sage_register_targets(self):
        reachable = frozenset({"reachable"})
        return [Registration("memory", lambda _: MemoryTarget(self.book), "By message", capabilities=reachable)]
