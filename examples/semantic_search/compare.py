"""
Compares the profiles of the deployment file: the same texts and classes, run once with each profile.

`make examples` runs it. It prints a table, and fails if two profiles give different answers.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

# Each matrix product uses one thread, so that only the profile decides how many CPU cores are busy. On Ray `cpu_cores`
# does the same. NumPy's library reads this variable when it is loaded.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from semantic_search.demo import QUESTIONS

from sage_plugins import Environment

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = Path(__file__).with_name("service_deployment.yaml")
#: Each profile of the file with its name in the table. The others are compared with the run without a profile.
CHOICES = {
    None: "single",
    "pool": "pool of 2",
    "replicas": "2 replicas",
    "batched": "batches of 32",
    "ray": "2 replicas on Ray",
    "ray-batched": "the same, batches of 32",
}
#: How often the texts are embedded. The shortest time counts: other work on the machine disturbed it least.
PASSES = 3
#: The largest difference allowed between two profiles: a batch computes its products in another order.
TOLERANCE = 1e-6


class Outcome(NamedTuple):
    """
    The results and the cost of one profile.

    Attributes:
        vectors: One row for each text.
        answers: For each question the names of the nearest texts, with their scores.
        seconds: The shortest of `PASSES` times to embed all texts.
        memory_mb: Resident memory of all processes that have a replica of the embedder.
    """

    vectors: NDArray[np.float32]
    answers: list[list[tuple[str, float]]]
    seconds: float
    memory_mb: float


def measure(profile: str | None) -> Outcome:
    """Deploy the file with *profile*, embed all texts, and ask the questions."""
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
    """Run `measure` in its own process, so that memory left by another profile does not count here."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, profile).result()


def difference(one: Outcome, other: Outcome) -> float:
    """Return the largest difference between the two; infinite if their answers name different texts."""
    if [[name for name, _ in answer] for answer in one.answers] != [
        [name for name, _ in answer] for answer in other.answers
    ]:
        return float("inf")
    scores = [np.array([score for answer in outcome.answers for _, score in answer]) for outcome in (one, other)]
    return float(max(np.abs(one.vectors - other.vectors).max(), np.abs(scores[0] - scores[1]).max()))


def main() -> None:
    """Measure each profile in turn, and print a line for each."""
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
