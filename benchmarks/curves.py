"""Calls a second against callers and replicas: how far more of either takes a service; drawn with `--plot FILE`."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rounds import interleave
from workloads import from_threads

from sage_plugins import Environment, ServiceDeploymentConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CALLERS = (1, 4, 16, 64, 256)
_REPLICAS = (1, 2, 4, 8)
_WAIT_S = 0.001
_WAITS = "waits 1 ms"
#: What a method does, and how many calls measure it with so many callers and replicas.
_METHODS: dict[str, Callable[[int, int], int]] = {
    _WAITS: lambda callers, replicas: 150 * min(callers, replicas),
    "does nothing": lambda _callers, _replicas: 3_000,
}
#: From light to dark, so that more replicas are more ink.
_COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#08306b")


class Service:
    """Two methods, one for each panel."""

    def wait(self) -> None:
        """Wait as for a disk or a network."""
        time.sleep(_WAIT_S)

    def nothing(self) -> None:
        """Return."""


def measure(rounds: int) -> dict[tuple[str, int, int], float]:
    """Median calls a second by what the method does, replicas and callers."""
    with Environment("bench") as env:
        for replicas in _REPLICAS:
            deployment = ServiceDeploymentConfig(replicas=replicas, load_balancing=replicas > 1)
            env.register_service_with_config(f"of-{replicas}", Service, deployment_config=deployment)
        env.deploy()
        points: dict[tuple[str, int, int], Callable[[], float]] = {}
        for replicas in _REPLICAS:
            service = env.service(f"of-{replicas}", Service)
            for does, method in zip(_METHODS, (service.wait, service.nothing), strict=True):
                for callers in _CALLERS:
                    points[does, replicas, callers] = _rate(method, callers, _METHODS[does](callers, replicas))
        names = {str(point): point for point in points}
        measured = interleave({name: points[point] for name, point in names.items()}, rounds)
    return {point: statistics.median(measured[name]) for name, point in names.items()}


def _rate(method: Callable[[], Any], callers: int, calls: int) -> Callable[[], float]:
    number = max(4, calls // callers)
    return lambda: 1 / from_threads(method, threads=callers, number=number)


def show(rates: Mapping[tuple[str, int, int], float]) -> None:
    """Print a table for each method."""
    for does in _METHODS:
        print(f"calls a second, a method that {does}")
        print("  replicas  " + "".join(f"{callers:>8} callers" for callers in _CALLERS))
        for replicas in _REPLICAS:
            print(f"  {replicas:>8}  " + "".join(f"{rates[does, replicas, callers]:>16,.0f}" for callers in _CALLERS))


def plot(rates: Mapping[tuple[str, int, int], float], file: Path) -> None:
    """Draw a panel for each method; the same figures give the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "sage-deploy", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for does, axes in zip(_METHODS, figure.subplots(1, 2), strict=True):
        for replicas, colour in zip(_REPLICAS, _COLOURS, strict=True):
            values = [rates[does, replicas, callers] for callers in _CALLERS]
            axes.plot(_CALLERS, values, color=colour, marker="o", markersize=3.5, label=f"{replicas}")
        axes.set_xscale("log", base=4)
        axes.set_xticks(_CALLERS, [str(callers) for callers in _CALLERS])
        if does == _WAITS:
            axes.set_yscale("log", base=2)
            limits = [replicas / _WAIT_S for replicas in _REPLICAS]
            axes.hlines(limits, _CALLERS[0], _CALLERS[-1], colors=_COLOURS, linewidth=0.8, linestyle=":")
            axes.set_yticks(limits, [f"{limit:,.0f}" for limit in limits])
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        axes.set_title(f"A method that {does}", fontsize=10)
        axes.set_xlabel("calling threads")
        axes.set_ylabel("calls a second")
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], title="replicas", fontsize=8, title_fontsize=8, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def main() -> None:
    """Measure, print, and draw if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw an SVG; needs matplotlib (group `bench`)")
    arguments = parser.parse_args()
    rates = measure(arguments.rounds)
    show(rates)
    if arguments.plot is not None:
        plot(rates, arguments.plot)


if __name__ == "__main__":
    main()
