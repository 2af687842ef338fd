"""A process uses the certificates from the options for calls between machines, else those from Ray's variables."""

from __future__ import annotations

import pickle

import pytest

from sage_deploy_ray.cluster.certificates import certificates_here
from sage_deploy_ray.directory.ray_directory import RayDirectory
from sage_deploy_ray.options import RayOptions
from sage_deploy_remote.rpc.certificates import Certificates
from sage_plugins.config.structure import structure

OPTION = {"certificate": "/a/node.pem", "key": "/a/node.key", "authority": "/a/ca.pem"}
VARIABLES = {
    "RAY_USE_TLS": "1",
    "RAY_TLS_SERVER_CERT": "/ray/node.pem",
    "RAY_TLS_SERVER_KEY": "/ray/node.key",
    "RAY_TLS_CA_CERT": "/ray/ca.pem",
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def set_all(monkeypatch):
    def set_all(**but):
        for name, value in (VARIABLES | but).items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize("says", ["1", "true", "True"])
def test_those_of_rays_variables_count(set_all, says):
    """Ray's variables give the certificates if RAY_USE_TLS is set; its values are read as Ray reads them."""
    set_all(RAY_USE_TLS=says)
    assert certificates_here(None) == Certificates("/ray/node.pem", "/ray/node.key", "/ray/ca.pem")


@pytest.mark.parametrize("says", ["0", "false", "yes", None])
def test_there_are_none_if_ray_uses_no_tls(set_all, says):
    """If Ray does not use TLS, there are no certificates, whatever the other variables say."""
    set_all(RAY_USE_TLS=says)
    assert certificates_here(None) is None


def test_option_wins(set_all):
    """The option wins over Ray's variables, even if these are incomplete."""
    set_all(RAY_TLS_CA_CERT=None)
    option = Certificates(**OPTION)
    assert certificates_here(option) == option


def test_variables_that_say_too_little_are_no_reason_to_do_without_tls(set_all):
    """Incomplete variables are an error that names the missing ones, not a silent connection without TLS."""
    set_all(RAY_TLS_SERVER_KEY=None, RAY_TLS_CA_CERT="")
    with pytest.raises(OSError, match="RAY_USE_TLS is set, and RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT must be set"):
        certificates_here(None)


def test_option_is_read():
    """The option is read from a mapping, as in a file."""
    options, problems = structure(RayOptions, {"tls": OPTION}, key="options.ray")
    assert not problems
    assert options.tls == Certificates(**OPTION)


@pytest.mark.parametrize(
    ("change", "key", "message"),
    [
        ({"key": "node.key"}, "options.ray.tls.key", "must be an absolute path"),
        ({"key": 1}, "options.ray.tls.key", "must be a string"),
        ({"keys": "/a"}, "options.ray.tls.keys", "unknown key"),
    ],
)
def test_wrong_option_is_reported_with_its_place(change, key, message):
    """A wrong option is reported with its key and what is wrong."""
    _, problems = structure(RayOptions, {"tls": OPTION | change}, key="options.ray")
    (found,) = problems
    assert found.key == key
    assert message in found.message


def test_option_without_one_of_its_files_is_reported():
    """All three files are required; the missing one is reported."""
    _, problems = structure(RayOptions, {"tls": {"certificate": "/a", "key": "/b"}}, key="options.ray")
    (found,) = problems
    assert "authority" in str(found)


def test_option_travels_with_a_handle():
    """A pickled handle keeps the option, so its receiver connects with the certificates."""
    directory = RayDirectory("environment", RayOptions(tls=Certificates(**OPTION)), "process")
    copy = pickle.loads(pickle.dumps(directory))  # noqa: S301 - our own
    assert copy._options.tls == Certificates(**OPTION)
