"""What LitServe serves in `http_servers.py`, as a process of its own: `lit_server.py PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve
import msgspec
from http_servers import Arguments, Echo


class OnLitServe(litserve.LitAPI):  # type: ignore[misc] # it may not be installed
    """One method, as little work as it can do."""

    def setup(self, device: Any) -> None:
        """Nothing."""

    # LitServe would read an annotation as a model of the body.
    def decode_request(self, request):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
        """The argument."""
        return msgspec.convert(request, Arguments).value

    def predict(self, value: int) -> int:
        """Give *value* back."""
        return Echo().echo(value)

    def encode_response(self, output: int) -> int:
        """The result."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(OnLitServe(api_path="/services/bench/echo"), accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
