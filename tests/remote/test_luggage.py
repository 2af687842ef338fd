"""References that do not go over a socket: they travel beside the message, and meet it."""

from __future__ import annotations

import gc
import pickle
from itertools import count

import pytest

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import CallItem, Frame, Response, Unit
from sage_deploy_remote.link.sockets.luggage import Luggage
from sage_deploy_remote.link.sockets.messages import pickled
from sage_deploy_remote.payloads.errors import pack_error, unpack_error
from sage_deploy_remote.payloads.packing import write
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.payloads.substrate import Substrate


class Reference:
    """Must not be pickled: it leads nowhere elsewhere."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        raise TypeError("a reference was pickled")


STORE = Substrate((Reference,))


class FailureError(Exception):
    """Has a reference in it."""


class Ferry:
    """Both ends of one."""

    def __init__(self):
        self._numbers = count()
        self.carried = {}
        self.ended = []

    def send(self, caller, references):
        mark = f"{caller}:{next(self._numbers)}"
        self.carried[mark] = references
        return mark

    def receive(self, mark):
        return self.carried.pop(mark)

    def drop(self, mark):
        del self.carried[mark]

    def end(self, mark):
        self.ended.append(mark)


@pytest.fixture
def luggage():
    return Luggage(Ferry())


def over(plain):
    """What arrives of plain data."""
    body, buffers = pickled(plain)
    return pickle.loads(body, buffers=[bytes(each) for each in buffers])  # noqa: S301 - our own


def frame_of(*payloads):
    items = tuple(CallItem(number, 0, payload, 0.0, 1.0) for number, payload in enumerate(payloads))
    return Frame("caller", 7, (Unit(0, items),), ((protocol.CLOSE, 3),), fresh=True)


def test_frame_arrives_with_its_references(luggage):
    """They are the same as before, in the arguments to which they belong; all else is as it was sent."""
    first, second = Reference("a"), Reference("b")
    sent = frame_of(write([first, second, first], STORE), write("plain", STORE))
    came = luggage.to_frame(over(luggage.of_frame(sent)))
    with_references, plain = (item.payload for item in came.units[0].items)
    assert unpack(with_references) == [first, second, first]
    assert unpack(plain) == "plain"
    assert (came.caller, came.number, came.notices, came.fresh) == (sent.caller, sent.number, sent.notices, sent.fresh)


def test_replies_arrive_with_their_references(luggage):
    """In results, in items and in errors."""
    result, item, inside = Reference("result"), Reference("item"), Reference("inside")
    error = pack_error(FailureError(inside), service="svc", method="fail", replica=None, node=None, substrate=STORE)
    sent = [
        (protocol.DONE, 1, write(result, STORE), (0.5, 1.5)),
        (protocol.ITEM, 2, write(item, STORE)),
        (protocol.FAILED, 3, error),
        (protocol.ENDED, 4, 0.25),
    ]
    came = luggage.to_response(over(luggage.of_replies("caller", 5, sent)))
    assert came.number == 5
    done, streamed, failed, ended = came.replies
    assert (unpack(done[2]), done[3]) == (result, (0.5, 1.5))
    assert unpack(streamed[2]) is item
    assert unpack_error(failed[2]).args == (inside,)
    assert ended == sent[3]


def test_message_without_references_takes_nothing_along(luggage):
    """It is the same as where there is no ferry."""
    sent = frame_of(write([1, 2], STORE))
    assert luggage.of_frame(sent) == Luggage().of_frame(sent)
    replies = [(protocol.DONE, 1, write("one", STORE)), (protocol.STARTING, 2)]
    assert luggage.of_replies("caller", 0, replies) == Luggage().of_replies("caller", 0, replies)
    assert Luggage().to_response(over(luggage.of_replies("caller", 0, replies))) == Response(0, replies)


def test_references_that_nobody_wants_are_dropped():
    """A call that was given up before its payload was read keeps nothing in the store."""
    ferry = Ferry()
    luggage = Luggage(ferry)
    came = luggage.to_frame(over(luggage.of_frame(frame_of(write([Reference("a")], STORE)))))
    assert ferry.carried
    del came
    gc.collect()
    assert not ferry.carried


def test_end_of_a_call_lets_go_of_its_references():
    """Once, and only of those of that call."""
    ferry = Ferry()
    luggage = Luggage(ferry)
    came = luggage.to_frame(over(luggage.of_frame(frame_of(write([Reference("a")], STORE), write(1, STORE)))))
    (mark,) = ferry.carried
    luggage.over(1)
    assert ferry.ended == []
    luggage.over(0)
    luggage.over(0)
    assert ferry.ended == [mark]
    assert unpack(came.units[0].items[1].payload) == 1
