"""The mosec server of `http_servers.py`, in its own process: `mosec_server.py --address HOST --port PORT`."""

from __future__ import annotations

from typing import Any

import mosec
import msgspec
from http_servers import Arguments, Echo


class OnMosec(mosec.Worker):  # type: ignore[misc] # it may not be installed
    """A method that does as little as possible."""

    def forward(self, data: Any) -> int:
        """Return the argument."""
        return Echo().echo(msgspec.convert(data, Arguments).value)


if __name__ == "__main__":
    server = mosec.Server()  # reads the command line
    server.append_worker(OnMosec, route="/services/bench/echo")
    server.run()
