"""The stranger's own tests: what a user of any strategy may rely on, and what is theirs alone."""

from typing import ClassVar

from sage_deploy_testing import StrategyConformance


class TestDedicated(StrategyConformance):
    plugin_id = "dedicated"
    options: ClassVar = {"thread_name": "mine"}

    def test_thread_has_the_name_of_the_users_choice(self):
        self.deploy()
        assert self.replica_threads() == ["svc#0-mine"]
