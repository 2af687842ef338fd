"""The report as one HTML document. It has no script, and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import TYPE_CHECKING, Final

from sage_deploy_testing.load_simulation.results.charts import STYLE, Chart, Line
from sage_deploy_testing.load_simulation.results.report import Latency, seconds_text
from sage_plugins.texts import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sage_deploy_testing.load_simulation.results.report import Report

__all__ = ["page_of"]

#: The most events in the table.
_MOST: Final = 500

_CSS: Final = """\
:root{color-scheme:light dark;--back:#fff;--text:#1a1a1a;--line:#d4d4d4}
@media (prefers-color-scheme:dark){:root{--back:#161616;--text:#e8e8e8;--line:#474747}}
body{margin:0 auto;padding:1.5rem;max-width:74rem;background:var(--back);color:var(--text);
font:15px/1.45 system-ui,sans-serif}
h1{font-size:1.4rem;margin:0 0 .3rem}h2{font-size:1.1rem;margin:1.6rem 0 .5rem}
table{border-collapse:collapse}th,td{text-align:left;vertical-align:top;padding:.25rem .9rem .25rem 0;
border-bottom:1px solid var(--line)}td.number{font-variant-numeric:tabular-nums;white-space:nowrap}
.scroll{overflow-x:auto}.charts{display:flex;flex-wrap:wrap;gap:1rem}code{overflow-wrap:anywhere}
"""

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary}</p>
<div class="scroll"><table>{numbers}</table></div>
<h2>Over time</h2>
<div class="charts">{charts}</div>
<h2>What was to happen</h2>
<table>{scenario}</table>
<h2>What was decided</h2>
<div class="scroll"><table><thead><tr><th>at</th><th>what</th><th>replica</th><th>why</th></tr></thead>
<tbody>{events}</tbody></table></div>
<p>{more}</p>
<p>Digest of the course of events: <code>{digest}</code></p>
</body>
</html>
"""


def page_of(report: Report) -> str:
    """Return the document for *report*. The same report gives the same bytes."""
    style = _CSS + STYLE
    hashed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    left_out = sum(report.event_counts.values()) - min(len(report.events), _MOST)
    scaled = f", scaled by {report.autoscaler}" if report.autoscaler else ""
    summary = (
        f"{report.seconds:g} s in virtual time with seed {report.seed}; "
        f"balancer {report.balancer or 'none: one replica serves'}{scaled}; "
        f"{counted(report.slots, 'call')} at once in a replica"
    )
    return _PAGE.format(
        policy=f"default-src 'none'; style-src 'sha256-{hashed}'; img-src data:; base-uri 'none'; form-action 'none'",
        title=escape(f"Simulation of {report.service}"),
        style=style,
        summary=escape(summary),
        numbers="".join(_row(name, value) for name, value in _numbers(report)),
        charts="".join(f"<figure>{chart.svg()}</figure>" for chart in _charts(report)),
        scenario="".join(_row(name, text) for name, texts in report.scenario.items() for text in texts),
        events="".join(
            f'<tr><td class="number">{event.at:.3f} s</td><td>{escape(event.kind)}</td>'
            f"<td>{escape(event.replica or '')}</td><td>{escape(event.reason)}</td></tr>"
            for event in report.events[:_MOST]
        ),
        more=f"{left_out:,} more are not shown." if left_out > 0 else "",
        digest=report.digest,
    )


def _row(name: str, value: str) -> str:
    return f'<tr><th scope="row">{escape(name)}</th><td class="number">{escape(value)}</td></tr>'


def _numbers(report: Report) -> Iterator[tuple[str, str]]:
    yield "calls", f"{report.calls:,}"
    yield "answered", f"{report.ok:,}"
    names = ("errors", "timeouts", "died", "rejected", "stopped", "unfinished")
    yield from ((name, f"{getattr(report, name):,}") for name in names)
    yield from ((f"rejected: {reason}", f"{number:,}") for reason, number in report.refusals.items())
    yield "attempts", f"{report.attempts:,}"
    yield "throughput", f"{report.throughput:,.1f} answers/s"
    yield "latency", _shares(report.latency)
    yield "wait", _shares(report.wait)
    first, most, last = report.replicas
    yield "replicas", f"{first} at first, {most} at most, {last} at the end"


def _shares(latency: Latency) -> str:
    shares = {"p50": latency.p50, "p99": latency.p99, "p99.9": latency.p999, "longest": latency.longest}
    return ", ".join(f"{name} {seconds_text(value)}" for name, value in shares.items())


def _charts(report: Report) -> Sequence[Chart]:
    step, moments = report.series.step, report.series.moments[:-1]
    ends = [round((number + 1) * step, 9) for number in range(len(moments))]
    marks = [(event.at, event.reason) for event in report.events if event.kind == "fault"]
    latencies = [Latency.of(moment.latency) for moment in moments]

    def line(name: str, values: Sequence[float]) -> Line:
        return Line(name, list(zip(ends, values, strict=True)))

    def chart(title: str, y: str, *lines: Line, log: bool = False) -> Chart:
        return Chart(title=title, x="seconds", y=y, lines=lines, log=log, marks=marks)

    return [
        chart(
            "Calls",
            "calls/s",
            line("came", [moment.calls / step for moment in moments]),
            line("failed", [moment.failed / step for moment in moments]),
            line("answered", [moment.ok / step for moment in moments]),
        ),
        chart(
            "Latency of answers",
            "seconds",
            line("p50", [each.p50 for each in latencies]),
            line("p99", [each.p99 for each in latencies]),
            log=True,
        ),
        chart(
            "Replicas",
            "replicas",
            line("take calls", [moment.ready for moment in moments]),
            line("wanted", [moment.wanted for moment in moments]),
        ),
        chart(
            "Calls in the service",
            "calls",
            line("running", [moment.running for moment in moments]),
            line("waiting", [moment.queued for moment in moments]),
        ),
    ]
