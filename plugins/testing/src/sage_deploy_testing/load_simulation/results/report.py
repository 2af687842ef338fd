"""The report of a simulation: its numbers, also as text, for programs, and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import attrs

from sage_deploy_testing.load_simulation.results.tally import Durations, Series
from sage_plugins.texts import counted

if TYPE_CHECKING:
    from sage_deploy_testing.load_simulation.results.tally import Tally
    from sage_deploy_testing.load_simulation.scenario.faults import Fault
    from sage_deploy_testing.load_simulation.scenario.loads import Load
    from sage_deploy_testing.load_simulation.scenario.times import Time
    from sage_plugins.planning.composition import Composition

__all__ = ["Happening", "Latency", "Report", "seconds_text"]

#: The most events in the text. The page and JSON have more.
_SHOWN = 20


@attrs.frozen
class Latency:
    """
    Durations in seconds. Each percentile is exact within 1.1 %. All are nan if there are no durations.

    Attributes:
        mean: Mean.
        p50: Half of them are not longer.
        p90: 90 % of them are not longer.
        p99: 99 %.
        p999: 99.9 %.
        longest: The longest.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    longest: float

    @classmethod
    def of(cls, durations: Durations) -> Latency:
        """Return the latency of a histogram."""
        longest = durations.longest if len(durations) else float("nan")
        p50, p90, p99, p999 = (durations.share(share) for share in (0.5, 0.9, 0.99, 0.999))
        return cls(durations.mean, p50, p90, p99, p999, longest)


@attrs.frozen
class Happening:
    """
    A fault, or a decision of the service.

    Attributes:
        at: Seconds since the start.
        kind: An `EventKind`, or `fault` and `fault_over` for the simulation's faults.
        reason: The reason, with the numbers behind the decision.
        replica: The replica's ID; None for the whole service.
    """

    at: float
    kind: str
    reason: str
    replica: str | None


@attrs.frozen(kw_only=True)
class Report:
    """
    The result of a simulation.

    `calls` is the sum of `ok`, `errors`, `timeouts`, `died`, `rejected`, `stopped` and `unfinished`.

    Attributes:
        service: Its name.
        balancer: ID of its load balancer; None without one.
        autoscaler: ID of its autoscaler; None without one.
        seed: Seed of the simulation.
        seconds: Seconds in which calls arrived.
        ended_at: Seconds from the start to the last event.
        slots: The most calls at once in a replica.
        scenario: Loads, times and faults, as the command line spells them.
        calls: Number of calls made.
        ok: Calls that were answered.
        errors: Calls that ended with another error than those below.
        timeouts: Calls that ended at their deadline.
        died: Calls that ended because their replica died.
        rejected: Calls that were not accepted.
        stopped: Calls that ended because the service stopped.
        unfinished: Calls that had not ended when the simulation did.
        refusals: `rejected` by reason.
        attempts: How often a method was started.
        retries: Calls that were sent again, by reason.
        throughput: Answers a second, while calls arrived.
        latency: Seconds from call to answer.
        wait: Seconds from call to start of the method, for answered calls.
        replicas: Replicas that took calls: at the start, at most, and when the last call arrived.
        series: The numbers over time.
        events: Faults and decisions, at most 10,000.
        event_counts: Number of events by kind.
        digest: A hash of the events. The same events give the same hash.
        traced: The lines of the trace; None without a trace.
    """

    service: str
    balancer: str | None
    autoscaler: str | None
    seed: int
    seconds: float
    ended_at: float
    slots: int
    scenario: Mapping[str, Sequence[str]]
    calls: int
    ok: int
    errors: int
    timeouts: int
    died: int
    rejected: int
    stopped: int
    unfinished: int
    refusals: Mapping[str, int]
    attempts: int
    retries: Mapping[str, int]
    throughput: float
    latency: Latency
    wait: Latency
    replicas: tuple[int, int, int]
    series: Series = attrs.field(repr=False)
    events: Sequence[Happening] = attrs.field(repr=False)
    event_counts: Mapping[str, int]
    digest: str
    traced: Sequence[str] | None = attrs.field(repr=False)

    @classmethod
    def of(  # noqa: PLR0913 - what there is to say
        cls,
        composition: Composition,
        tally: Tally,
        retries: Mapping[str, int],
        *,
        seed: int,
        seconds: float,
        slots: int,
        loads: Sequence[Load],
        times: Mapping[str, Time],
        faults: Sequence[Fault],
        ended_at: float,
    ) -> Report:
        """Build the report."""
        series, outcomes = tally.series, tally.outcomes
        ready = [moment.ready for moment in series.moments[:-1]] or [0]
        within = series.moments[:-1]
        return cls(
            service=composition.name,
            balancer=None if composition.balancer is None else composition.balancer.id,
            autoscaler=None if composition.autoscaler is None else composition.autoscaler.id,
            seed=seed,
            seconds=seconds,
            ended_at=ended_at,
            slots=slots,
            scenario={
                "load": [str(load) for load in loads],
                "time": [f"{name}={time}" for name, time in times.items()],
                "faults": [str(fault) for fault in faults],
            },
            calls=tally.calls,
            ok=len(tally.latency),
            errors=outcomes["error"],
            timeouts=outcomes["timeout"],
            died=outcomes["died"],
            rejected=outcomes["refused"],
            stopped=outcomes["stopped"] + outcomes["cancelled"],
            unfinished=tally.open,
            refusals=dict(tally.refused),
            attempts=tally.starts,
            retries=dict(retries),
            throughput=sum(moment.ok for moment in within) / seconds,
            latency=Latency.of(tally.latency),
            wait=Latency.of(tally.wait),
            replicas=(tally.first_replicas, max(ready), ready[-1]),
            series=series,
            events=[Happening(*event) for event in tally.events],
            event_counts=dict(tally.kinds),
            digest=tally.digest(),
            traced=None if tally.trace is None else tuple(tally.trace),
        )

    @property
    def trace(self) -> str:
        """
        The trace, with one line for each event.

        Raises:
            ValueError: The simulation kept no trace.
        """
        if self.traced is None:
            raise ValueError("no trace was kept: give simulate(..., trace=True)")
        return "".join(f"{line}\n" for line in self.traced)

    def latency_between(self, begin: float, end: float) -> Latency:
        """
        Return the latency of the calls that arrived in a period, for example after the warm-up.

        Args:
            begin: Seconds since the start, rounded to a slice of `series`.
            end: The same. Not later than the last call.
        """
        first, last = round(begin / self.series.step), round(end / self.series.step)
        merged = Durations()
        for moment in self.series.moments[first:last]:
            merged.merge(moment.latency)
        return Latency.of(merged)

    def as_dict(self) -> dict[str, Any]:
        """Return everything for programs, without the trace. Durations without a value are None."""
        skipped = {"series", "events", "traced", "latency", "wait", "replicas"}
        found = {each.name: getattr(self, each.name) for each in attrs.fields(type(self)) if each.name not in skipped}
        first, most, last = self.replicas
        return {
            **found,
            "latency": _plain(attrs.asdict(self.latency)),
            "wait": _plain(attrs.asdict(self.wait)),
            "replicas": {"first": first, "most": most, "last": last},
            "series": {"step": self.series.step, "moments": [_moment(each) for each in self.series.moments[:-1]]},
            "events": [attrs.asdict(event) for event in self.events],
        }

    def __str__(self) -> str:
        """The main numbers, in a few lines."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        spread = self.balancer or "one replica serves"
        scaled = f", scaled by {self.autoscaler}" if self.autoscaler else ""
        first, most, last = self.replicas
        ends = {
            "answered": self.ok,
            "failed": self.errors,
            "timed out": self.timeouts,
            "died": self.died,
            "rejected": self.rejected,
            "stopped": self.stopped,
            "unfinished": self.unfinished,
        }
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in self.refusals.items())
        retried = ", ".join(f"{number:,} {reason}" for reason, number in self.retries.items() if number)
        lines = [
            f"{self.service}: {self.seconds:g} s in virtual time, seed {self.seed}",
            f"  balancer    {spread}{scaled}; {counted(self.slots, 'call')} at once in a replica",
            *(f"  {name:<10}  {text}" for name, texts in self.scenario.items() for text in texts),
            f"  calls       {self.calls:,}: "
            + ", ".join(f"{number:,} {name}" for name, number in ends.items() if number or name == "answered"),
            *([f"  rejected    {reasons}"] if reasons else []),
            f"  throughput  {self.throughput:,.1f} answers/s",
            f"  latency     {_spread(self.latency)}",
            f"  wait        {_spread(self.wait)}",
            f"  attempts    {self.attempts:,} starts" + (f"; sent again: {retried}" if retried else ""),
            f"  replicas    {first} at first, {most} at most, {last} at the end",
        ]
        lines += [
            f"  {event.at:9.3f} s  {event.kind}{f' {event.replica}' if event.replica else ''}"
            f"{f': {event.reason}' if event.reason else ''}"
            for event in self.events[:_SHOWN]
        ]
        more = sum(self.event_counts.values()) - _SHOWN
        return [*lines, *([f"  ... and {more:,} more events"] if more > 0 else []), f"  digest      {self.digest}"]

    def to_html(self) -> str:
        """Return the report as one HTML document with plots, which loads nothing."""
        from sage_deploy_testing.load_simulation.results.page import page_of

        return page_of(self)


def seconds_text(seconds: float) -> str:
    """Return a duration for people."""
    if isnan(seconds):
        return "-"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1000:.3g} ms"


def _spread(latency: Latency) -> str:
    names = {"p50": latency.p50, "p90": latency.p90, "p99": latency.p99, "p99.9": latency.p999}
    return ", ".join(f"{name} {seconds_text(value)}" for name, value in {**names, "longest": latency.longest}.items())


def _plain(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: None if isnan(number) else number for name, number in numbers.items()}


def _moment(moment: Any) -> dict[str, Any]:
    latency = Latency.of(moment.latency)
    return {
        "calls": moment.calls,
        "ok": moment.ok,
        "failed": moment.failed,
        "ready": moment.ready,
        "wanted": moment.wanted,
        "queued": moment.queued,
        "running": moment.running,
        **_plain({"p50": latency.p50, "p99": latency.p99}),
    }
