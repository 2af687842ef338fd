"""The conformance suite for balancers, and tests of this balancer and its command alone."""

from acme_balancers import load_command
from click.testing import CliRunner

from sage_deploy_testing import BalancerConformance
from sage_deploy_testing.doubles.fake_candidate import candidates


class TestRendezvous(BalancerConformance):
    plugin_id = "rendezvous"

    def test_key_is_the_argument_of_the_users_choice(self):
        """Calls with an equal value of the chosen argument run on one replica."""
        service = self.balanced("rendezvous", options={"rendezvous": {"argument": "value"}})
        assert {len({service.handle.do(key) for _ in range(3)}) for key in range(20)} == {1}

    def test_load_changes_nothing(self):
        """A key keeps its replica, however loaded it is."""
        group = candidates(3)
        pick = self.picker(group)
        home = pick("k", "get")
        home.inflight = 1000
        assert pick("k", "get") is home


def test_command_shows_where_keys_go():
    done = CliRunner().invoke(load_command(), ["cache", "a", "b", "--replicas", "1"])
    assert (done.exit_code, done.output) == (0, "a  cache#0\nb  cache#0\n")
