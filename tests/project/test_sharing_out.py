"""Tests that belong together run in one test process, and `make test` runs only a part of the long suites."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sage_deploy_testing import StrategyConformance
from sharing_out import TogetherOrOneByOne
from strategies_in_turn import StrategiesInTurn, mark_cells


class Process:
    """Records the tests that it is sent."""

    def __init__(self, name):
        self.gateway, self.shutting_down, self.sent = SimpleNamespace(id=name), False, []

    def send_runtest_some(self, numbers):
        self.sent += numbers

    def shutdown(self):
        self.shutting_down = True


def share(pytester, count, tests):
    """Return *count* processes and the scheduler that distributes *tests* among them."""
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
    """Run all tests, also those that a process is sent later."""
    done = dict.fromkeys(processes, 0)
    while any(len(process.sent) > done[process] for process in processes):
        for process in processes:
            if len(process.sent) > done[process]:
                scheduler.mark_test_complete(process, process.sent[done[process]])
                done[process] += 1


@pytest.fixture
def shared(pytester):
    """Two processes and three files of two tests each. One file is marked as a group."""
    tests = [f"test_{name}.py::test_{number}" for name in ("first", "together", "last") for number in range(2)]
    return share(pytester, 2, tests)


def test_a_marked_file_goes_to_one_process_before_all_others(shared):
    """The tests of a marked file go to one process first. The other tests follow one by one, in order."""
    _, (one, other) = shared
    assert one.sent[:2] == [2, 3]
    assert sorted(one.sent[2:] + other.sent) == [0, 1, 4, 5][: len(one.sent + other.sent) - 2]
    assert other.sent == sorted(other.sent)


def test_what_a_process_has_done_is_forgotten(shared):
    """A finished test leaves the scheduler's records: every report searches all tests assigned to the process."""
    scheduler, processes = shared
    finish(scheduler, processes)
    assert sorted(processes[0].sent + processes[1].sent) == list(range(6))
    assert list(scheduler.assigned_work.values()) == [{}, {}]
    assert not scheduler.has_pending


@pytest.mark.parametrize(("count", "clusters"), [(2, range(2)), (3, range(3)), (4, range(2)), (8, range(2))])
def test_two_of_many_processes_take_the_tests_on_a_cluster(pytester, count, clusters):
    """
    Two of many processes run the cluster tests. They begin with these, and help with the others when none is left.

    They run no test that needs a process without Ray's runtime. With three processes or fewer, all run everything.
    """
    files = {"tests/test_a.py": 90, "tests/ray/test_b.py": 10, "tests/ray/cluster/test_c.py": 20}
    tests = [f"{file}::test_{number}" for file, many in files.items() for number in range(many)]
    scheduler, processes = share(pytester, count, tests)
    finish(scheduler, processes)
    assert sorted(number for process in processes for number in process.sent) == list(range(120))
    assert not scheduler.has_pending
    assert all(process.shutting_down for process in processes)
    ran = [[tests[number].partition("::")[0] for number in process.sent] for process in processes]
    assert [n for n, files in enumerate(ran) if "tests/ray/cluster/test_c.py" in files] == list(clusters)
    if count > 3:
        for number in clusters:
            assert sorted(set(ran[number]), key=ran[number].index) == ["tests/ray/cluster/test_c.py", "tests/test_a.py"]
            assert ran[number] == sorted(ran[number])  # the cluster first


@pytest.mark.parametrize("file", ["tests/test_a.py", "tests/ray/cluster/test_b.py"])
def test_where_all_tests_are_of_one_kind_all_processes_take_them(pytester, file):
    """If all tests are of one kind, all processes run them."""
    scheduler, processes = share(pytester, 6, [f"{file}::test_{number}" for number in range(60)])
    finish(scheduler, processes)
    assert sorted(number for process in processes for number in process.sent) == list(range(60))
    assert all(process.sent for process in processes)


class Item:
    """One collected cell of a case."""

    def __init__(self, suite, case, *marks):
        self.cls, self.originalname, self.marks = suite, case, list(marks)

    def get_closest_marker(self, name):
        return next((mark for mark in self.marks if mark.name == name), None)

    def add_marker(self, mark):
        self.marks.append(mark)


@pytest.mark.parametrize(("one_in", "left"), [(1, 5), (20, 1)])
def test_of_a_suite_that_starts_processes_one_cell_of_a_case_is_quick(one_in, left):
    """
    In a suite that starts processes, `make test` runs one cell of each case, and different cells for different cases.

    With `one_in = 1`, all cells run.
    """

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
    """A case that another suite runs is slow here. Own cases and `test_declared_capabilities` stay quick."""
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
