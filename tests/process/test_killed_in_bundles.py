"""Answers that a replica gave before it was killed arrive, even those held back to be sent with later ones."""

from __future__ import annotations

import os
import signal

import pytest

from sage_plugins import Environment, ServiceDeploymentConfig, errors

pytestmark = pytest.mark.timeout(120)


class Allocations:
    """Its methods are fast and not idempotent."""

    def enter(self, path, number):
        """Append *number* to the file."""
        with open(path, "a", encoding="ascii") as file:  # noqa: PTH123 - making a Path takes as long as the writing
            file.write(f"{number}\n")
        return number

    def refuse(self, number):
        """Fail."""
        raise KeyError(number)

    def die(self):
        """Kill this process, as the kernel does when memory runs out."""
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_replica_takes_no_answer_and_no_other_call_along(tmp_path):
    """Only the call that kills its replica fails. It is not retried, and each other call runs exactly once."""
    path = str(tmp_path / "ledger")
    with Environment("ledgers") as env:
        config = ServiceDeploymentConfig(target="process", threading_strategy="single", queue_size=1000)
        env.register_service_with_config("ledger", Allocations, deployment_config=config)
        ledger = env.service("ledger")
        for call in [ledger.submit("enter", os.devnull, number) for number in range(200)]:
            call.result(60)  # from now on their method is known to be fast
        for begin in range(0, 300, 100):
            before = [ledger.submit("enter", path, number) for number in range(begin, begin + 50)]
            refused = [ledger.submit("refuse", number) for number in range(50)]
            deadly = ledger.submit("die")
            after = [ledger.submit("enter", path, number) for number in range(begin + 50, begin + 100)]
            assert [call.result(60) for call in (*before, *after)] == list(range(begin, begin + 100))
            assert [call.exception(60).args for call in refused] == [(number,) for number in range(50)]
            with pytest.raises(errors.ReplicaDiedError) as caught:
                deadly.result(60)
            assert caught.value.maybe_executed
        assert [each.event.kind for each in env.events()].count("replica_failed") == 3
    with open(path, encoding="ascii") as file:  # noqa: PTH123 - as above
        assert [int(line) for line in file] == list(range(300))
