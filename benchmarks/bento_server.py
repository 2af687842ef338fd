"""The BentoML server of `http_servers.py`: `bentoml serve bento_server:Bench`, in an environment that has BentoML."""

from __future__ import annotations

import bentoml


@bentoml.service(workers=1)  # type: ignore[misc] # it may not be installed
class Bench:
    """A method that does as little as possible."""

    @bentoml.api(route="/services/bench/echo")  # type: ignore[misc] # as above
    def echo(self, value: int) -> int:
        """Return *value*."""
        return value
