"""The LitServe server of `http_servers.py`, in its own process: `lit_server.py PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve
import msgspec
from http_servers import Arguments, Echo


class OnLitServe(litserve.LitAPI):  # type: ignore[misc] # it may not be installed
    """A method that does as little as possible."""

    def setup(self, device: Any) -> None:
        """Set up nothing."""

    # No annotation, because LitServe would read it as a model of the body.
    def decode_request(self, request):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
        """Return the argument."""
        return msgspec.convert(request, Arguments).value

    def predict(self, value: int) -> int:
        """Return *value*."""
        return Echo().echo(value)

    def encode_response(self, output: int) -> int:
        """Return the result."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(OnLitServe(api_path="/services/bench/echo"), accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
