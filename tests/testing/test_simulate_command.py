"""`sage-deploy simulate`: the command, its page, and what it says of mistakes."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from click.testing import CliRunner

from chromium import Watched, chromium
from sage_deploy_testing.commands.simulate import command
from sage_deploy_testing.load_simulation.scenario.spelling import faults_of, load_of, time_of_method
from sage_deploy_testing.simulation import (
    simulate,
)
from sage_plugins import idempotent
from sage_plugins.errors import ConfigError
from simulated_service import play


class KV:
    """The service named in the tests' file. Its methods never run."""

    @idempotent
    def get(self, key: str) -> None:
        raise AssertionError

    def put(self, key: str, value: str) -> None:
        raise AssertionError


class Page(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in {"src", "href"}]


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("200", "is no load. Loads look so"),
            ("get 200/s", "is no load"),
            ("200/s for ever", "is no duration"),
            ("-5/s for 10s", "is no load"),
        ],
    )
    def test_of_loads(self, text: str, says: str) -> None:
        """A load that is spelled wrong is refused with the right form."""
        with pytest.raises(ValueError, match=says):
            load_of(text)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("get=quick", "is no time of a method"),
            ("get=lognormal(10ms)", "has 2 values"),
            ("get=exponential(0)", "must be above 0"),
            ("get=recorded(/no/such/file)", "cannot be read"),
        ],
    )
    def test_of_times(self, text: str, says: str) -> None:
        """A duration of a method that is spelled wrong is refused with the reason."""
        with pytest.raises(ValueError, match=says):
            time_of_method(text)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("flood at 3s", "is no fault"),
            ("crash", "is no fault"),
            ("crash at 3s for 5s", "no duration"),
            ("crash x3 at 3s", "is no fault"),
            ("node at 3s", "is no fault"),
            ("drop 120% at 3s", "share"),
        ],
    )
    def test_of_faults(self, text: str, says: str) -> None:
        """A fault that is spelled wrong is refused with the reason."""
        with pytest.raises(ValueError, match=says):
            faults_of(text)

    @pytest.mark.parametrize(
        "text",
        [
            "crash replica 2 at 20s",
            "slow x10 replica 3 at 10s for 20s",
            "hang node 1 at 1s",
            "node 1 at 3s",
            "drop 5% at 1s",
        ],
    )
    def test_faults_are_spelt_as_they_are_read(self, text: str) -> None:
        """A parsed fault prints as it was written."""
        assert [str(fault) for fault in faults_of(text)] == [text]

    def test_of_the_scenario(self) -> None:
        """An incomplete or impossible scenario is refused with what is missing."""
        with simulate({}) as sim:
            with pytest.raises(ValueError, match="no call comes"):
                sim.run()
            with pytest.raises(ValueError, match="say which method"):
                sim.load(rate=1, until=1)
            with pytest.raises(ValueError, match="there is no fault 'flood'; there are crash, slow"):
                sim.fault("flood", at=1)
            sim.load(rate=1, until=1, method="get")
            with pytest.raises(ValueError, match="say how long 'get' takes"):
                sim.run()
            sim.time("get", 0.1)
            sim.fault("node", at=1, node=3)
            with pytest.raises(ValueError, match="there are 1 nodes"):
                sim.run()

    def test_a_method_that_is_not_served_is_named(self) -> None:
        """An unknown method is refused with the nearest name."""
        with simulate({}, service_class=KV) as sim:
            sim.time("gte", 0.1)
            sim.load(rate=1, until=1)
            with pytest.raises(ValueError, match="did you mean 'get'"):
                sim.run()

    def test_a_wrong_configuration_is_refused_as_ever(self) -> None:
        """A wrong configuration raises `ConfigError`, as for a deployed service."""
        with simulate({"queue_size": -1}) as sim:
            sim.time("get", 0.1)
            sim.load(rate=1, until=1)
            with pytest.raises(ConfigError, match="queue_size"):
                sim.run()

    def test_it_runs_once(self) -> None:
        """A simulation runs only once."""
        with simulate({}) as sim:
            sim.time("get", 0.1)
            sim.load(rate=1, until=1)
            sim.run()
            with pytest.raises(RuntimeError, match="runs once"):
                sim.run()

    def test_a_trace_has_to_be_asked_for(self) -> None:
        """Reading the trace of a run without `trace=True` raises."""
        with pytest.raises(ValueError, match="trace=True"):
            _ = play({}).trace


@pytest.fixture
def file(tmp_path: Any) -> Any:
    made = tmp_path / "service_deployment.yaml"
    made.write_text(
        f"services:\n  kv:\n    class: {__name__}:KV\n    replicas: 3\n    threading_strategy: single\n    timeout: 1\n"
        f"  other:\n    class: {__name__}:KV\n"
    )
    return made


class TestCommand:
    def run(self, *arguments: Any, code: int = 0) -> Any:
        result = CliRunner().invoke(command, list(map(str, arguments)))
        assert result.exit_code == code, result.output
        return result

    def test_from_the_file_to_a_page(self, file: Any, tmp_path: Any) -> None:
        """
        The command simulates a service of a file, and writes JSON, text, an HTML page and a trace.

        The page has charts, but no scripts and no links to other hosts.
        """
        page, trace = tmp_path / "out.html", tmp_path / "trace.txt"
        options = ["--service", "kv", "--load", "get 50/s..150/s for 10s", "--time", "lognormal(10ms, 0.8)"]
        more = [
            "--faults",
            "crash at 2s; slow x10 replica 1 at 4s for 2s",
            "--seed",
            7,
            "--report",
            page,
            "--trace",
            trace,
        ]
        found = json.loads(self.run(file, *options, *more, "-o", "json").stdout)
        assert found["version"] == 1
        assert found["service"] == "kv"
        assert found["calls"] == found["ok"] + found["died"] + found["timeouts"] + found["rejected"]
        assert found["replicas"] == {"first": 3, "most": 3, "last": 3}
        assert trace.read_text().count("\n") > 3 * found["ok"]
        text = self.run(file, *options, *more).stdout
        assert f"calls       {found['calls']:,}: {found['ok']:,} answered" in text
        assert found["digest"] in text
        parser = Page()
        parser.feed(page.read_text())
        assert parser.tags.count("svg") == 4
        assert "script" not in parser.tags
        assert parser.links == ["data:,"]

    def test_a_file_with_several_services_needs_the_name_of_one(self, file: Any) -> None:
        """For a file with several services, `--service` is required, and the error lists them."""
        result = self.run(file, "--load", "get 1/s for 1s", "--time", "constant(1ms)", code=2)
        assert "--service" in result.output
        assert "kv, other" in result.output

    def test_mistakes_are_said_with_what_is_allowed(self, file: Any) -> None:
        """Bad options exit with 2 and show the right form."""
        options = [file, "--service", "kv", "--time", "constant(1ms)", "--load"]
        assert "Loads look so: '200/s for 60s'" in self.run(*options, "lots", code=2).output
        wrong = self.run(*options, "get 1/s for 1s", "--faults", "flood at 1s", code=2)
        assert "Faults look so: 'crash at 20s'" in wrong.output
        assert "say which method" in self.run(*options, "1/s for 1s", code=2).output


class TestPage:
    def test_the_same_report_gives_the_same_page(self) -> None:
        assert play({}).to_html() == play({}).to_html()

    def test_it_opens_without_a_complaint_in_light_and_dark(self, tmp_path: Any) -> None:
        """The page opens in a browser without errors, in light and dark mode."""
        file = tmp_path / "out.html"
        file.write_text(play({"replicas": 2}, faults="crash at 3s").to_html())
        with chromium() as browser:
            for scheme in ("light", "dark"):
                watched = Watched(browser, "file://", color_scheme=scheme)
                watched.page.goto(file.as_uri())
                assert watched.page.locator("svg.chart").count() == 4
                assert watched.page.get_by_text("Simulation of service").count() >= 1
                assert watched.faults() == []
