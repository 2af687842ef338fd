"""
Threads that call a method with batches, against the bare batch method called back to back.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rounds import interleave, per_call
from table import goal, rounds_asked, show
from workloads import from_threads

from sage_plugins import Environment, ServiceDeploymentConfig, batch_of

if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE = 32
_TAKES_S = 0.01
#: Number of calling threads, and calls of each.
_CALLERS = {256: 16, 64: 32, 32: 32, 8: 32, 1: 32}


class Model:
    """Takes the same time for one question as for a full batch."""

    sizes: list[int]

    def __init__(self) -> None:
        self.sizes = []

    def ask(self, question: int) -> int:
        """Answer one question."""
        return self.ask_many([question])[0]

    @batch_of("ask")
    def ask_many(self, questions: list[int]) -> list[int]:
        """Answer each question."""
        self.sizes.append(len(questions))
        time.sleep(_TAKES_S)
        return questions

    def mean_size(self) -> float:
        """Return the mean number of questions in a batch since the last call of this method."""
        sizes, self.sizes = self.sizes, []
        return sum(sizes) / len(sizes)


def main() -> None:
    """Measure, and print a row for each goal."""
    rounds = rounds_asked(__doc__, 10)
    bare = Model()
    full = list(range(_SIZE))
    names = {callers: f"{callers} callers" if callers > 1 else "1 caller" for callers in _CALLERS}
    sizes: dict[str, list[float]] = {name: [] for name in names.values()}
    with Environment("bench") as env:
        deployment = ServiceDeploymentConfig(batch_size=_SIZE)
        env.register_service_with_config("model", Model, deployment_config=deployment)
        model = env.service("model", Model)

        def seconds_a_batch(callers: int, number: int) -> Callable[[], float]:
            def measure() -> float:
                a_call = from_threads(lambda: model.ask(1), threads=callers, number=number)
                sizes[names[callers]].append(model.mean_size())
                return a_call * min(callers, _SIZE)

            return measure

        measured = interleave(
            {
                "bare batch method": lambda: per_call(lambda: bare.ask_many(full), 30),
                **{names[callers]: seconds_a_batch(callers, number) for callers, number in _CALLERS.items()},
            },
            rounds,
        )
    # Each caller waits for its reply. So with few callers, a batch has at most as many questions as there are callers.
    show(f"ms for as many answers as fit into a batch of {_SIZE}, or as there are callers", measured, 1e3)
    for callers, name in names.items():
        goal(measured, "bare batch method", name, ">= 0.97" if callers > 2 * _SIZE else "")
    show("questions in a batch", sizes, 1)


if __name__ == "__main__":
    main()
