"""Calls of a service that has stopped are refused with a reason that is true then."""

from __future__ import annotations

import asyncio

import pytest

from sage_plugins import Environment
from sage_plugins.errors import ServiceStoppedError


class Echo:
    def echo(self, value: int) -> int:
        return value


@pytest.mark.parametrize("end", [lambda env: env.close(), lambda env: env.drain("echo")], ids=["close", "drain"])
def test_a_stopped_service_is_said_to_have_stopped(end: object) -> None:
    """After the end of a service, a refused call says that it has stopped, no longer that it is stopping."""
    with Environment("ended") as env:
        env.register_service("echo", Echo)
        echo = env.service("echo")
        assert echo.echo(1) == 1
        end(env)
        with pytest.raises(ServiceStoppedError, match="service 'echo' has stopped; deploy it again"):
            echo.echo(1)

        async def later() -> int:
            return await echo.aio.echo(1)

        with pytest.raises(ServiceStoppedError, match="has stopped"):
            asyncio.run(later())


def test_a_drained_service_can_be_deployed_again() -> None:
    """`deploy` starts a drained service again, and its old handles call it, as the error says."""
    with Environment("again") as env:
        env.register_service("echo", Echo)
        echo = env.service("echo")
        assert echo.echo(1) == 1
        env.drain("echo")
        env.deploy()
        assert echo.echo(2) == 2
