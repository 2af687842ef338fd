"""Some references cannot go over a socket: a carrier brings them separately, and the receiver puts them back."""

from __future__ import annotations

import gc
import pickle
from itertools import count
from pickle import PickleBuffer

import pytest

from sage_deploy_remote.link import protocol
from sage_deploy_remote.link.protocol import CallItem, Frame, Response, Unit
from sage_deploy_remote.link.sockets.attachments import Attachments
from sage_deploy_remote.link.sockets.messages import pickled
from sage_deploy_remote.payloads.errors import pack_error, unpack_error
from sage_deploy_remote.payloads.packing import write
from sage_deploy_remote.payloads.payload import unpack
from sage_deploy_remote.payloads.substrate import Substrate


class Reference:
    """Fails when it is pickled: it is valid in its own process only."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        raise TypeError("a reference was pickled")


STORE = Substrate((Reference,))


class FailureError(Exception):
    """An error whose arguments contain a reference."""


class Carrier:
    """Both ends of a carrier, in one process."""

    large = 1000

    def __init__(self):
        self._numbers = count()
        self.carried = {}
        self.ended = []

    def send(self, caller, references):
        mark = f"{caller}:{next(self._numbers)}"
        self.carried[mark] = references
        return mark

    def send_buffers(self, caller, buffers):
        return self.send(caller, [bytes(each) for each in buffers])

    def receive(self, mark):
        return self.carried.pop(mark)

    def drop(self, mark):
        del self.carried[mark]

    def release(self, mark):
        self.ended.append(mark)


@pytest.fixture
def attachments():
    return Attachments(Carrier())


def sent_over(plain):
    """Return plain data as the other end receives it."""
    body, buffers = pickled(plain)
    return pickle.loads(body, buffers=[bytes(each) for each in buffers])  # noqa: S301 - our own


def frame_of(*payloads):
    items = tuple(CallItem(number, 0, payload, 0.0, 1.0) for number, payload in enumerate(payloads))
    return Frame("caller", 7, (Unit(0, items),), ((protocol.CLOSE, 3),), fresh=True)


def test_frame_arrives_with_its_references(attachments):
    """References arrive as the same objects, in the arguments they belong to; the rest of the frame is unchanged."""
    first, second = Reference("a"), Reference("b")
    sent = frame_of(write([first, second, first], STORE), write("plain", STORE))
    came = attachments.frame_from_plain(sent_over(attachments.frame_to_plain(sent)))
    with_references, plain = (item.payload for item in came.units[0].items)
    assert unpack(with_references) == [first, second, first]
    assert unpack(plain) == "plain"
    assert (came.caller, came.number, came.notices, came.fresh) == (sent.caller, sent.number, sent.notices, sent.fresh)


def test_replies_arrive_with_their_references(attachments):
    """Results, stream items and errors arrive with their references."""
    result, item, inside = Reference("result"), Reference("item"), Reference("inside")
    error = pack_error(FailureError(inside), service="svc", method="fail", replica=None, node=None, substrate=STORE)
    sent = [
        (protocol.DONE, 1, write(result, STORE), (0.5, 1.5)),
        (protocol.ITEM, 2, write(item, STORE)),
        (protocol.FAILED, 3, error),
        (protocol.ENDED, 4, 0.25),
    ]
    came = attachments.response_from_plain(sent_over(attachments.replies_to_plain("caller", 5, sent)))
    assert came.number == 5
    done, streamed, failed, ended = came.replies
    assert (unpack(done[2]), done[3]) == (result, (0.5, 1.5))
    assert unpack(streamed[2]) is item
    assert unpack_error(failed[2]).args == (inside,)
    assert ended == sent[3]


def test_message_without_references_takes_nothing_along(attachments):
    """A message without references is the same as without a carrier."""
    sent = frame_of(write([1, 2], STORE))
    assert attachments.frame_to_plain(sent) == Attachments().frame_to_plain(sent)
    replies = [(protocol.DONE, 1, write("one", STORE)), (protocol.STARTING, 2)]
    assert attachments.replies_to_plain("caller", 0, replies) == Attachments().replies_to_plain("caller", 0, replies)
    assert Attachments().response_from_plain(sent_over(attachments.replies_to_plain("caller", 0, replies))) == Response(
        0, replies
    )


def test_references_that_nobody_wants_are_dropped():
    """If a call is given up before its payload is read, the carrier drops its references."""
    carrier = Carrier()
    attachments = Attachments(carrier)
    came = attachments.frame_from_plain(sent_over(attachments.frame_to_plain(frame_of(write([Reference("a")], STORE)))))
    assert carrier.carried
    del came
    gc.collect()
    assert not carrier.carried


@pytest.mark.parametrize("size", [999, 1000])
def test_large_buffers_go_by_the_ferry(attachments, size):
    """The carrier takes large buffers; small ones go with the message. The value is the same either way."""
    value = [PickleBuffer(bytearray(b"a" * size)), Reference("a")]
    came = attachments.frame_from_plain(sent_over(attachments.frame_to_plain(frame_of(write(value, STORE)))))
    assert len(attachments._carrier.carried) == (1 if size < Carrier.large else 2)
    buffer, reference = unpack(came.units[0].items[0].payload)
    assert bytes(buffer) == b"a" * size
    assert reference is value[1]
    attachments.call_ended(0)
    assert len(attachments._carrier.ended) == (1 if size < Carrier.large else 2)


def test_end_of_a_call_lets_go_of_its_references():
    """When a call ends, its references are released, once; those of other calls stay."""
    carrier = Carrier()
    attachments = Attachments(carrier)
    came = attachments.frame_from_plain(
        sent_over(attachments.frame_to_plain(frame_of(write([Reference("a")], STORE), write(1, STORE))))
    )
    (mark,) = carrier.carried
    attachments.call_ended(1)
    assert carrier.ended == []
    attachments.call_ended(0)
    attachments.call_ended(0)
    assert carrier.ended == [mark]
    assert unpack(came.units[0].items[1].payload) == 1
