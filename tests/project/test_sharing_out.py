"""Processes that share the tests get what belongs together as a whole, and `make test` runs a part of long suites."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sage_deploy_testing import StrategyConformance
from sharing_out import TogetherOrOneByOne
from strategies_in_turn import StrategiesInTurn, mark_cells


class Process:
    """Notes which tests it is sent."""

    def __init__(self, name):
        self.gateway, self.shutting_down, self.sent = SimpleNamespace(id=name), False, []

    def send_runtest_some(self, numbers):
        self.sent += numbers

    def shutdown(self):
        self.shutting_down = True


def share(pytester, count, tests):
    """So many processes, and what shares out the tests among them."""
    pytester.makeini("[pytest]")
    for path in {pytester.path / test.partition("::")[0] for test in tests}:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    pytester.makepyfile(test_together='import pytest\npytestmark = pytest.mark.xdist_group("together")')
    scheduler = TogetherOrOneByOne(pytester.parseconfig(f"--tx={count}*popen"))
    processes = [Process(f"gw{number}") for number in range(count)]
    for process in processes:
        scheduler.add_node(process)
    for process in processes:
        scheduler.add_node_collection(process, tests)
    scheduler.schedule()
    return scheduler, processes


def finish(scheduler, processes):
    """Run all tests: those that a process has, and those that it is sent meanwhile."""
    done = dict.fromkeys(processes, 0)
    while any(len(process.sent) > done[process] for process in processes):
        for process in processes:
            if len(process.sent) > done[process]:
                scheduler.mark_test_complete(process, process.sent[done[process]])
                done[process] += 1


@pytest.fixture
def shared(pytester):
    """Two processes, and two tests of each of three files; one file is marked."""
    tests = [f"test_{name}.py::test_{number}" for name in ("first", "together", "last") for number in range(2)]
    return share(pytester, 2, tests)


def test_a_marked_file_goes_to_one_process_before_all_others(shared):
    """The other tests follow one by one, in their order."""
    _, (one, other) = shared
    assert one.sent[:2] == [2, 3]
    assert sorted(one.sent[2:] + other.sent) == [0, 1, 4, 5][: len(one.sent + other.sent) - 2]
    assert other.sent == sorted(other.sent)


def test_what_a_process_has_done_is_forgotten(shared):
    """Each report of a test looks through all that its process was given."""
    scheduler, processes = shared
    finish(scheduler, processes)
    assert sorted(processes[0].sent + processes[1].sent) == list(range(6))
    assert list(scheduler.assigned_work.values()) == [{}, {}]
    assert not scheduler.has_pending


@pytest.mark.parametrize(
    ("count", "clusters"), [(2, range(2)), (3, range(3)), (4, range(2)), (6, range(3)), (8, range(3))]
)
def test_at_most_three_processes_take_the_tests_on_a_cluster(pytester, count, clusters):
    """They begin with these and take no others; where there are few processes, all take everything."""
    here, there = (
        [f"tests/test_a.py::test_{n}" for n in range(40)],
        [f"tests/ray/cluster/b.py::test_{n}" for n in range(20)],
    )
    scheduler, processes = share(pytester, count, here + there)
    finish(scheduler, processes)
    assert sorted(number for process in processes for number in process.sent) == list(range(60))
    assert not scheduler.has_pending
    assert all(process.shutting_down for process in processes)
    assert [n for n, process in enumerate(processes) if max(process.sent) >= 40] == list(clusters)
    if count > 3:
        assert all(min(processes[n].sent) >= 40 for n in clusters)


@pytest.mark.parametrize("file", ["tests/test_a.py", "tests/ray/cluster/test_b.py"])
def test_where_all_tests_are_of_one_kind_all_processes_take_them(pytester, file):
    scheduler, processes = share(pytester, 6, [f"{file}::test_{number}" for number in range(60)])
    finish(scheduler, processes)
    assert sorted(number for process in processes for number in process.sent) == list(range(60))
    assert all(process.sent for process in processes)


class Item:
    """A cell of a case, as pytest has collected it."""

    def __init__(self, suite, case, *marks):
        self.cls, self.originalname, self.marks = suite, case, list(marks)

    def get_closest_marker(self, name):
        return next((mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, mark):
        self.marks.append(mark)


@pytest.mark.parametrize(("one_in", "left"), [(1, 5), (20, 1)])
def test_of_a_suite_that_starts_processes_one_cell_of_a_case_is_quick(one_in, left):
    """Another cell for another case; where each case runs, all its cells do."""

    class Suite(StrategiesInTurn):
        pass

    Suite.one_in = one_in
    kept = set()
    for case in ("test_one", "test_two", "test_three", "test_four"):
        cells = [Item(Suite, case) for _ in range(5)]
        mark_cells([*cells, Item(Suite, case, pytest.mark.slow), Item(None, case)])
        quick = [number for number, cell in enumerate(cells) if not cell.marks]
        assert len(quick) == left
        kept.update(quick)
    assert len(kept) > 1


def test_a_case_that_another_suite_runs_is_slow_here(pytester):
    """What the suite alone has is quick, and what it says of itself."""
    pytester.makeini("[pytest]\nmarkers =\n    slow: left out")
    pytester.makepyfile(
        """
        from sage_deploy_testing import StrategyConformance
        from strategies_in_turn import StrategiesInTurn

        class TestHere(StrategiesInTurn):
            plugin_id = "local"
            elsewhere = StrategyConformance
        """
    )
    items, _ = pytester.inline_genitems()
    quick = {item.originalname for item in items if not item.get_closest_marker("slow")}
    elsewhere = {name for name in dir(StrategyConformance) if name.startswith("test_")} - {"test_declared_capabilities"}
    assert quick
    assert {item.originalname for item in items} - quick == elsewhere & {item.originalname for item in items}
    assert quick & elsewhere == set()
    assert "test_declared_capabilities" in quick
