"""What mosec serves in `http_servers.py`, as a process of its own: `mosec_server.py --address HOST --port PORT`."""

from __future__ import annotations

from typing import Any

import mosec
import msgspec
from http_servers import Arguments, Echo


class OnMosec(mosec.Worker):  # type: ignore[misc] # it may not be installed
    """One method, as little work as it can do."""

    def forward(self, data: Any) -> int:
        """Give the argument back."""
        return Echo().echo(msgspec.convert(data, Arguments).value)


if __name__ == "__main__":
    server = mosec.Server()  # reads the command line
    server.append_worker(OnMosec, route="/services/bench/echo")
    server.run()
