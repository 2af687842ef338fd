"""`sage-deploy doctor` reports a healthy machine as such, and each problem with what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import pytest

from command_line import PATIENCE, SCRIPT, installed, register, sage_deploy, surroundings
from sage_deploy_cli.machine import checks
from sage_deploy_cli.machine.control_groups import ControlGroups
from sage_plugins import hookimpl
from sage_plugins.errors import PluginError
from sage_plugins.findings import Finding
from sage_plugins.plugins.listing import examine
from sage_plugins.plugins.registry import Registry


def findings(done):
    """Return the findings that are not ok, by name."""
    return {each["name"]: each for each in json.loads(done.stdout)["findings"] if each["status"] != "ok"}


def started(command, cwd, **variables):
    """Run a shell command that starts the doctor with its own limits."""
    return subprocess.run(
        ["/bin/bash", "-c", command.replace("DOCTOR", f"{SCRIPT} doctor --json")],
        cwd=cwd,
        env=surroundings(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.wheels
def test_everything_is_looked_at(tmp_path):
    """The doctor prints one line per finding and a summary; the exit code is 0 if nothing fails."""
    done = sage_deploy("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    *lines, empty, last = done.stdout.splitlines()
    looked_at = {line[8:].partition(":")[0] for line in lines if not line.startswith(" ")}
    assert looked_at >= checks.CHECKS.keys() - {"folders"} | {"working folder", "temporary folder"}
    assert empty == ""
    assert last == "all is well" or last.endswith(("warning", "warnings"))


def test_findings_that_are_not_ok_have_a_fix():
    """A finding has a fix exactly if it is not ok."""
    for finding in checks.check_machine():
        assert finding.found
        assert bool(finding.fix) == (finding.status != "ok"), finding


def test_few_open_files_are_a_warning(tmp_path):
    """A low limit of open files is a warning with the fix."""
    finding = findings(started("ulimit -n 300; exec DOCTOR", tmp_path))["open files"]
    assert (finding["status"], finding["found"]) == ("warning", "at most 300, which is few")
    assert "ulimit -n 300" in finding["fix"]


def test_few_threads_are_a_warning(tmp_path):
    finding = findings(started("ulimit -u 500; exec DOCTOR", tmp_path))["threads"]
    assert finding["found"] == "at most 500 (user), which is few"
    assert "ulimit -u" in finding["fix"]


def test_limits_do_not_apply_where_there_are_none(monkeypatch):
    """Without the module `resource`, as on Windows, the limits do not apply."""
    monkeypatch.setitem(sys.modules, "resource", None)
    (finding,) = checks.CHECKS["open files"]()
    assert (finding.status, finding.found) == ("ok", "does not apply to this system")


def test_settings_that_spoil_services_are_warnings(tmp_path):
    """A Python setting that slows services or changes their behaviour is a warning that names the variable."""
    variables = {
        "PYTHONASYNCIODEBUG": (1, "debug mode"),
        "PYTHONDEVMODE": (1, "development mode"),
        "PYTHONOPTIMIZE": (1, "assert statements"),
        "PYTHONTRACEMALLOC": (1, "allocation is recorded"),
        "PYTHONMALLOC": ("debug", "allocation is checked"),
    }
    set_to = {name: value for name, (value, _) in variables.items()}
    done = sage_deploy("doctor", "--json", cwd=tmp_path, **set_to)
    assert done.returncode == 0
    found = [each for each in json.loads(done.stdout)["findings"] if each["name"] == "settings"]
    assert {each["status"] for each in found} == {"warning"}
    named = {name: each["found"] for each in found for name in variables if name in each["fix"]}
    assert len(found) == len(named) == len(variables)
    assert all(words in named[name] for name, (_, words) in variables.items()), named


def test_other_encoding_than_utf_8_is_a_warning(tmp_path):
    finding = findings(sage_deploy("doctor", "--json", cwd=tmp_path, PYTHONIOENCODING="latin-1"))["encoding"]
    assert finding["found"] == "not UTF-8: stdout: iso8859-1"


def test_distributions_of_different_minor_versions_are_a_failure(tmp_path):
    register(tmp_path, "sage-deploy-ray", "0.9.3", {})
    done = sage_deploy("doctor", "--json", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 1
    finding = findings(done)["distributions"]
    assert "sage-deploy-ray 0.9.3" in finding["found"]
    assert "sage-deploy 0.1.0" in finding["found"]
    assert finding["fix"].startswith("pip install --upgrade sage-deploy ")


@pytest.mark.parametrize(("stranger", "words"), [("acme-broken", "does not load"), ("acme-collider", "offers")])
def test_plugins_that_break_the_contract_are_a_failure(stranger, words, tmp_path):
    """A plugin that breaks the contract is a failure that names its distribution."""
    done = sage_deploy("doctor", cwd=tmp_path, PYTHONPATH=installed(tmp_path, stranger))
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("failure"))
    assert f"{stranger} 1.2" in line
    assert words in line
    assert done.stdout.splitlines()[-1].startswith("1 failure")


def test_working_folder_that_takes_no_file_is_a_warning():
    done = sage_deploy("doctor", "--json", cwd="/proc")
    assert findings(done)["working folder"]["status"] == "warning"


def test_working_folder_that_is_gone_is_a_failure(tmp_path):
    done = started("mkdir gone && cd gone && rmdir ../gone && exec DOCTOR", tmp_path)
    assert done.returncode == 1
    assert "is gone" in findings(done)["working folder"]["found"]


def test_temporary_folder_that_takes_no_file_is_a_failure(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    finding = next(each for each in checks.CHECKS["folders"]() if each.name == "temporary folder")
    assert finding.status == "failure"
    assert "TMPDIR" in finding.fix


@pytest.mark.parametrize(("ahead", "words"), [(100.0, "-100 s between"), (-1e9, "s between")])
def test_clock_that_differs_from_that_of_files_is_a_warning(ahead, words, monkeypatch):
    """A system clock that differs from that of the file system is a warning."""
    real = checks.time.time
    monkeypatch.setattr(checks.time, "time", lambda: real() + ahead)
    (finding,) = checks.CHECKS["clock"]()
    assert finding.status == "warning"
    assert words in finding.found


def test_check_that_cannot_be_run_does_not_hide_the_others(monkeypatch):
    """A check that raises is a warning; the other checks still run."""

    def check():
        raise RuntimeError("odd\nmachine")

    monkeypatch.setitem(checks.CHECKS, "memory", check)
    found = {finding.name: finding for finding in checks.check_machine()}
    assert found["memory"].status == "warning"
    assert found["memory"].found == "could not be checked: RuntimeError: odd machine"
    assert "encoding" in found


# -- control groups --------------------------------------------------------------------------------------------------


def machine(root, groups, **files):
    """Create a root folder with this /proc/self/cgroup and these files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_0_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return ControlGroups(root)


def limits(groups):
    return groups.cpus(), groups.memory(), groups.threads()


def test_no_control_groups_limit_nothing(tmp_path):
    assert limits(ControlGroups(tmp_path)) == (None, None, None)
    assert limits(machine(tmp_path, "nonsense\n")) == (None, None, None)


def test_smallest_limit_of_version_2_counts(tmp_path):
    """The smallest limit counts, because a group cannot use more than its parents (version 2)."""
    found = machine(
        tmp_path,
        "0::/pod/app\n",
        cpu_0_max="max 100000",
        pod__cpu_0_max="150000 100000",
        pod__app__cpu_0_max="max 100000",
        pod__memory_0_max="1048576",
        pod__app__memory_0_max="2097152",
        pod__app__pids_0_max="77",
    )
    assert limits(found) == (1.5, 1048576, 77)


def test_limits_inside_a_container_are_found(tmp_path):
    """In a container the group's path is that of the host, and its limits are read from the root."""
    found = machine(tmp_path, "0::/kubepods/of/the/host\n", cpu_0_max="50000 100000", memory_0_max="max")
    assert limits(found) == (0.5, None, None)


def test_limits_of_version_1_are_found(tmp_path):
    folder = tmp_path / "sys/fs/cgroup"
    for path, text in {
        "cpu/app/cpu.cfs_quota_us": "200000",
        "cpu/app/cpu.cfs_period_us": "100000",
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/app/memory.limit_in_bytes": "536870912",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "pids/app/pids.max": "max",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"{text}\n")
    assert limits(machine(tmp_path, "3:cpu,cpuacct:/app\n2:memory:/app\n1:pids:/app\n")) == (2.0, 536870912, None)


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("cores", {"cpu_0_max": "50000 100000"}, "0.5 of the machine's"),
        ("memory", {"memory_0_max": str(100 * 1024 * 1024)}, "at most 100 MiB"),
        ("threads", {"pids_0_max": "50"}, "at most 50 (control group)"),
    ],
)
def test_narrow_container_is_a_warning(name, files, words, tmp_path, monkeypatch):
    """A container with low limits is a warning."""
    groups = machine(tmp_path, "0::/\n", **files)
    monkeypatch.setattr(checks, "ControlGroups", lambda: groups)
    (finding,) = checks.CHECKS[name]()
    assert finding.status == "warning"
    assert finding.found.startswith(words)


def test_checks_of_plugins_are_run():
    """Checks of plugins run. A check that raises is a warning and does not hide other findings."""

    class Plugin:
        @hookimpl
        def sage_register_checks(self):
            return [lambda: 1 / 0, lambda: [Finding("GPU", "ok", "none is needed")]]

    registry = Registry.of(Plugin())

    broken, found = examine(registry)

    assert (broken.name, broken.status) == ("plugin Plugin", "warning")
    assert "ZeroDivisionError" in broken.found
    assert found == Finding("GPU", "ok", "none is needed")


def test_check_that_cannot_be_called_is_no_check():
    """A registered check that is not callable is a plugin error."""

    class Plugin:
        @hookimpl
        def sage_register_checks(self):
            return ["the driver"]

    with pytest.raises(PluginError, match=r"sage_register_checks .* returned 'the driver', which cannot be called"):
        Registry.of(Plugin())
