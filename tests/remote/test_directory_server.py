"""What the directory's server remembers, and when it answers."""

from __future__ import annotations

import logging
import pickle
import queue
import threading

import pytest

from sage_deploy_process.directory import ProcessDirectory
from sage_deploy_remote.reach.directory_server import DirectoryThread
from sage_deploy_remote.reach.driver_directory import leave
from sage_deploy_remote.reach.listing import Listing
from sage_plugins.config.nested_keys import Policies

PATIENCE = 20.0
#: Longer than any test waits.
LONG = 1000.0


class Directory:
    """The directory of one environment."""

    def __init__(self, thread):
        self._request = thread.request

    def publish(self, version, *, over=False, service="svc"):
        listing = f"{service} {version}"
        self._request("publish", "env", service, (1, version), listing, over=over).result(PATIENCE)

    def ask(self, seen=0, wait_s=LONG, follower="", service="svc", starting=""):
        return self._request("ask", "env", service, seen, wait_s, follower, starting)

    def circle(self, starting, service):
        """Return the circle that a start hook is told when it asks for a service and does not wait."""
        return self.ask(wait_s=0, starting=starting, service=service).result(PATIENCE).circle

    def wait_seen(self, version, wait_s=LONG):
        return self._request("wait_seen", "env", "svc", version, wait_s)

    def listing(self, *args, **kwargs):
        return self.ask(*args, **kwargs).result(PATIENCE).listing


@pytest.fixture
def directory():
    thread = DirectoryThread()
    yield Directory(thread)
    thread.close()


def test_listing_that_is_older_is_left_out(directory):
    """The server drops a listing older than the one it has: listings may overtake each other."""
    directory.publish(2)
    directory.publish(1)
    assert directory.listing() == "svc 2"


def test_who_waits_for_another_version_is_told_at_once(directory):
    """A request that waits is answered as soon as the version changes. One with another version is answered at once."""
    waiting = directory.ask(seen=0)
    assert not waiting.done()
    directory.publish(1)
    assert waiting.result(PATIENCE).listing == "svc 1"
    assert directory.listing(seen=7) == "svc 1"


def test_who_has_waited_long_enough_gets_what_is_known(directory):
    """A request that has waited its full time gets the listing that is known."""
    assert directory.listing(wait_s=0.01) is None
    directory.publish(1)
    assert directory.listing(seen=1, wait_s=0.01) == "svc 1"


def test_owner_waits_until_followers_have_taken_in_a_version(directory):
    """The owner waits until each follower asks for the next version. It waits for no one who asked only once."""
    directory.publish(1)
    directory.ask(seen=1)
    directory.ask(seen=1, follower="a")
    directory.publish(2)
    waiting = directory.wait_seen(2)
    assert directory.listing(wait_s=0) == "svc 2"
    assert not waiting.done()
    directory.ask(seen=2, follower="a")
    waiting.result(PATIENCE)


def test_nobody_waits_for_a_follower_whose_connection_has_ended(directory):
    """The owner does not wait for a follower whose request was cancelled because its connection ended."""
    first, second = directory.ask(follower="a"), directory.ask(follower="b")
    first.cancel()
    waiting = directory.wait_seen(1)
    assert directory.listing(wait_s=0) is None
    assert not waiting.done()
    second.cancel()
    waiting.result(PATIENCE)


def test_follower_that_does_not_come_is_waited_for_once(directory):
    """The owner waits for a silent follower only once: its process has most likely ended."""
    directory.publish(1)
    assert directory.listing(follower="a") == "svc 1"
    directory.wait_seen(2, 0.01).result(PATIENCE)
    directory.wait_seen(2).result(PATIENCE)


def test_services_that_stopped_long_ago_are_forgotten(directory):
    """The server forgets services that stopped long ago, and keeps all that run."""
    directory.publish(1, service="runs")
    for number in range(1001):
        directory.publish(1, over=True, service=f"stopped{number}")
    assert directory.listing(service="runs") == "runs 1"
    assert directory.listing(wait_s=0, service="stopped0") is None
    assert directory.listing(service="stopped1") == "stopped1 1"


def test_those_who_wait_are_cancelled_at_the_end():
    """Closing the directory cancels the requests that wait."""
    thread = DirectoryThread()
    waiting = Directory(thread).ask()
    thread.close()
    assert waiting.cancelled()


def test_start_hooks_that_wait_for_each_other_are_told_at_once(directory):
    """The start hook that closes a circle is told the whole circle, even if it asks for itself; the others wait on."""
    waiting = [directory.ask(service="b", starting="a"), directory.ask(service="c", starting="b")]
    assert directory.circle("c", "a") == ("c", "a", "b", "c")
    assert directory.circle("c", "c") == ("c", "c")
    assert directory.circle("c", "d") == directory.circle("d", "a") == ()
    assert not any(each.done() for each in waiting)


def test_service_that_is_deployed_is_part_of_no_circle(directory):
    """A deployed service is in no circle: its methods answer, even while its other replicas wait."""
    directory.ask(service="b", starting="a")
    assert directory.circle("b", "a") == ("b", "a", "b")
    directory.publish(1, service="a")
    assert directory.circle("b", "a") == ()


def test_start_hooks_that_wait_no_more_are_part_of_no_circle(directory):
    """A start hook that no longer waits is in no circle."""
    directory.ask(service="b", starting="a", wait_s=0.01).result(PATIENCE)
    assert directory.circle("b", "a") == ()


def test_who_is_no_start_hook_is_told_of_no_circle(directory):
    """Only start hooks are told of circles: a method may wait until the other service has started."""
    directory.ask(service="b", starting="a")
    assert directory.ask(service="a", wait_s=0).result(PATIENCE).circle == ()


class OfAnotherVersion:
    """What a process with another version of a plugin cannot read."""

    def __reduce__(self):
        return _cannot_be_read, ()


def _cannot_be_read():
    raise AttributeError("no such option")


def test_follower_goes_on_after_a_listing_that_it_cannot_read(monkeypatch):
    """A process that cannot read one listing says so once, and takes in the next one that it can read."""
    user, told = object(), queue.SimpleQueue()
    directory = ProcessDirectory("env", user=user)

    def publish(version, balancer):
        directory.publish(Listing("svc", 1, version, (), 1, "block", None, Policies(), balancer, None, 1))

    said, lines = threading.Event(), []
    log = logging.getLogger("sage_plugins")
    monkeypatch.setattr(log, "warning", lambda text, error: (lines.append(text % error), said.set()))
    directory.announce({})
    publish(1, OfAnotherVersion())
    access = pickle.loads(pickle.dumps(directory)).open("svc")  # noqa: S301 - our own
    access.watch(0, told.put)
    assert said.wait(PATIENCE)
    publish(2, None)
    assert told.get(timeout=PATIENCE).listing.version == 2
    assert len(lines) == 1
    assert "cannot be called from this process" in lines[0]
    access.close()
    leave(user)
