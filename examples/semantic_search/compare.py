"""
What each choice of the deployment file costs: the same texts through the same classes, once for each of its profiles.

Run by `make examples`. It prints a table, and ends with an error if one of the choices gives other answers.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

# One thread for each product of matrices, so that the profiles alone decide how many processors are busy. On Ray the
# same follows from `cpu_cores`. NumPy's library reads it when it is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from semantic_search.demo import QUESTIONS

from sage_plugins import Environment

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = Path(__file__).with_name("service_deployment.yaml")
#: Each profile of the file, with what it is called in the table; without one, it is what the others are compared with.
CHOICES = {
    None: "single",
    "pool": "pool of 2",
    "replicas": "2 replicas",
    "batched": "batches of 32",
    "ray": "2 replicas on Ray",
    "ray-batched": "the same, batches of 32",
}
#: The texts are embedded so many times, and the shortest time counts: it is that with the fewest neighbours at work.
PASSES = 3
#: How far apart a number may be under two choices: in a batch the products are made in another order.
TOLERANCE = 1e-6


class Outcome(NamedTuple):
    """
    What one choice gave and cost.

    Attributes:
        vectors: One row for each text.
        answers: For each question the names of the nearest texts, with their scores.
        seconds: What it took to embed all texts, at the best of `PASSES` times.
        memory_mb: Resident memory of all processes that have a replica of the embedder.
    """

    vectors: NDArray[np.float32]
    answers: list[list[tuple[str, float]]]
    seconds: float
    memory_mb: float


def measure(profile: str | None) -> Outcome:
    """Deploy the file with *profile*, have all texts embedded, ask the questions."""
    with Environment("semantic-search") as env:
        env.load_service_deployment_config(FILE, profile=profile)
        env.deploy(timeout=120)
        search = env.service("search")
        built = search.build()
        answers = [[(answer.name, answer.score) for answer in search.query(question)] for question in QUESTIONS]
        seconds = min(built.seconds, *(search.embed().seconds for _ in range(1, PASSES)))
        metrics = env.get_service_status("embedder")["metrics"]
        return Outcome(np.array(built.vectors), answers, seconds, metrics.memory_usage / 2**20)


def measure_apart(profile: str | None) -> Outcome:
    """`measure` in a process of its own: what another choice left behind would be counted as memory of this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, profile).result()


def difference(one: Outcome, other: Outcome) -> float:
    """How far the two are apart at most; infinite if they answer with other texts."""
    if [[name for name, _ in answer] for answer in one.answers] != [
        [name for name, _ in answer] for answer in other.answers
    ]:
        return float("inf")
    scores = [np.array([score for answer in outcome.answers for _, score in answer]) for outcome in (one, other)]
    return float(max(np.abs(one.vectors - other.vectors).max(), np.abs(scores[0] - scores[1]).max()))


def main() -> None:
    """Measure every choice, one after the other, and print a line for each."""
    print(f"{'choice':<25}{'seconds':>9}{'texts/s':>9}{'memory':>9}  answers", flush=True)
    first = None
    for profile, name in CHOICES.items():
        outcome = measure_apart(profile)
        first = first or outcome
        apart = difference(first, outcome)
        same = "the same, bit by bit" if apart == 0 else f"the same, within {apart:.0e}"
        if apart > TOLERANCE:
            sys.exit(f"{name}: numbers are {apart} apart from those of {CHOICES[None]!r}; {TOLERANCE} is allowed")
        rate = len(outcome.vectors) / outcome.seconds
        costs = f"{outcome.seconds:>9.1f}{rate:>9.0f}{outcome.memory_mb:>6.0f} MB"
        print(f"{name:<25}{costs}  {same if outcome is not first else ''}".rstrip(), flush=True)
    print(f"{len(first.vectors)} texts, {os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
