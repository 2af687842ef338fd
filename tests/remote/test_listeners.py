"""The addresses on which a replica listens: a socket for callers on its machine, a port for others."""

from __future__ import annotations

import stat
from pathlib import Path

import attrs
import pytest

from sage_deploy_remote.rpc.client import RpcClient
from sage_deploy_remote.rpc.listeners import Listeners, this_machine


def serve_one(end):
    """Echo data until the connection ends."""
    with end:
        while data := end.recv(100):
            end.sendall(data)


@pytest.fixture
def listeners():
    listeners = Listeners(lambda: "127.0.0.1", serve_one)
    yield listeners
    listeners.close()


def test_callers_of_this_machine_get_a_socket_in_a_private_folder(listeners):
    """Callers on this machine get a socket in a folder that only this user may enter."""
    address = listeners.address_for(this_machine())
    assert stat.S_IMODE(Path(address.place).parent.stat().st_mode) == 0o700
    assert address.exact
    assert listeners.address_for(this_machine()) == address


def test_callers_of_another_machine_get_a_port(listeners):
    """Callers on another machine get a port. Its address is not exact: sent data may be lost when a side ends."""
    address = listeners.address_for("another")
    host, port = address.place
    assert host == "127.0.0.1"
    assert port
    assert not address.exact
    assert listeners.address_for("a third") == address


def test_callers_of_another_machine_use_tls_where_there_are_certificates(listeners, node_certificates):
    """Callers on another machine use TLS if certificates are configured; callers on this machine do not."""
    listeners._certificates = lambda: node_certificates
    far, near = listeners.address_for("another"), listeners.address_for(this_machine())
    assert (far.takes_tls, far.exact) == (True, False)
    assert (near.takes_tls, near.exact) == (False, True)
    for address in (far, near):
        with address.connect_socket(node_certificates) as end:
            end.settimeout(20)
            end.sendall(b"hello")
            assert end.recv(100) == b"hello"


def test_there_is_no_door_without_tls_where_certificates_cannot_be_read(listeners, node_certificates, tmp_path):
    """If certificates cannot be read, no port opens and the error names the file. Local callers still connect."""
    listeners._certificates = lambda: attrs.evolve(node_certificates, key=str(tmp_path / "gone.key"))
    with pytest.raises(OSError, match=r"gone\.key"):
        listeners.address_for("another")
    assert listeners.address_for(this_machine()).exact


@pytest.mark.parametrize("machine", [this_machine(), "another"], ids=["near", "far"])
def test_who_knows_the_secret_gets_a_connection(listeners, machine):
    """A caller with the secret gets a connection that carries data both ways."""
    with listeners.address_for(machine).connect_socket() as end:
        end.settimeout(20)
        end.sendall(b"hello")
        assert end.recv(100) == b"hello"


def test_nothing_is_asked_over_it(listeners):
    """A request on this listener is refused: it accepts only calls."""
    client = RpcClient(listeners.address_for(this_machine()).connect, "client")
    assert "for calls alone" in str(client.request("stop", 0).exception(20))
    client.close()


def test_stopped_replica_lets_in_nobody(listeners):
    """A stopped replica removes its folder and accepts no connections; open ones stay usable."""
    address = listeners.address_for(this_machine())
    with address.connect_socket() as end:
        end.settimeout(20)
        listeners.stop_accepting()
        assert not Path(address.place).parent.exists()
        with pytest.raises(OSError, match="has stopped"):
            listeners.address_for("another")
        end.sendall(b"still here")
        assert end.recv(100) == b"still here"
