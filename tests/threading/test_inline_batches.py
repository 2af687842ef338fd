"""Under `inline`, a batch size has no effect, and the plan says so."""

from __future__ import annotations

import pytest

from sage_plugins import Environment, batch_of


class Upper:
    def one(self, text: str) -> str:
        return text.upper()

    @batch_of("one")
    def many(self, texts: list[str]) -> list[str]:
        return [text.upper() for text in texts]


@pytest.mark.parametrize(("strategy", "size", "warned"), [("inline", 8, 1), ("inline", 1, 0), ("single", 8, 0)])
def test_a_batch_size_under_inline_is_doubtful(strategy: str, size: int, warned: int) -> None:
    """A `batch_size` above 1 with strategy `inline` gives warning W15; with `single` it does not."""
    config = {"threading_strategy": strategy, "batch_size": size}
    with Environment("batches") as env:
        env.register_service_with_config("upper", Upper, deployment_config=config)
        found = [str(each) for each in env.plan().services[0].warnings if each.id == "W15"]
    assert len(found) == warned
    assert all("under 'inline' each call runs through the batch method alone" in each for each in found)
