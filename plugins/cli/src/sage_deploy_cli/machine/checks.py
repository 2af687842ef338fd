"""
Checks whether this machine and this Python can run services.

Each check looks at one thing and yields findings. It starts nothing, and changes nothing that outlives it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sage_deploy_cli.machine.control_groups import ControlGroups
from sage_plugins.errors import line_of
from sage_plugins.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sage_plugins.findings import Status

__all__ = ["CHECKS", "check_machine"]

_MEBIBYTE: Final = 1024 * 1024

#: Lower limits for open files or threads give a warning.
_FEW: Final = 1024
#: Bytes. Less memory gives a warning: Python and the core take about 40 MiB, and services need more.
_LITTLE_MEMORY: Final = 256 * _MEBIBYTE
#: Seconds. With larger steps of the clock, short timeouts are less precise than users expect.
_COARSE: Final = 0.02
#: Seconds. A larger difference between this machine's clock and the file system's is not just the delay of a write.
_SKEW: Final = 5.0
#: Seconds by which a file's time may be ahead of the clock, because it may come from another time zone.
_DAY: Final = 86_400.0

_NOT_HERE: Final = "does not apply to this system"


def check_machine() -> list[Finding]:
    """Return the findings of all `CHECKS` in order. A check that raises gives a warning."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            found += check()
        except Exception as error:  # noqa: BLE001 - one check that fails on an odd machine must not prevent the others
            found.append(Finding(name, "warning", f"could not be checked: {line_of(error)}", "check it by hand"))
    return found


def _python() -> Iterator[Finding]:
    import platform

    build = [platform.python_implementation()]
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    build.append("with the GIL" if gil else "without the GIL")
    debug = hasattr(sys, "gettotalrefcount")
    if debug:
        build.append("debug build")
    found = f"{platform.python_version()} ({', '.join(build)})"
    if sys.version_info.releaselevel != "final":
        yield Finding("Python", "warning", f"{found} is not a final release", "use a released Python")
    elif debug:
        yield Finding("Python", "warning", f"{found}: calls take several times as long", "use an ordinary build")
    elif not gil:
        fix = "use a build with the GIL, or set PYTHON_GIL=1"
        yield Finding("Python", "warning", f"{found}: this version of sage-deploy is not tested without it", fix)
    else:
        yield Finding("Python", "ok", found)


def _distributions() -> Iterator[Finding]:
    from importlib import metadata

    versions: dict[str, str] = {}
    for dist in metadata.distributions():
        name = (dist.name or "").lower().replace("_", "-")
        if name.startswith("sage-deploy"):
            versions.setdefault(name, dist.version)  # the first one on the path is the one that Python imports
    found = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    if len({tuple(version.split(".")[:2]) for version in versions.values()}) > 1:
        fix = f"pip install --upgrade {' '.join(sorted(versions))}"
        yield Finding("distributions", "failure", f"not of the same minor version: {found}", fix)
    else:
        yield Finding("distributions", "ok", found or "none is installed: sage-deploy runs from its sources")


def _plugins() -> Iterator[Finding]:
    from sage_deploy_cli.machine.plugin_check import check_plugins

    report = check_plugins()
    for finding in report.findings:
        yield Finding("plugins", finding.status, f"{finding.name}: {finding.found}", finding.fix)
    if not report.findings:
        yield Finding("plugins", "ok", f"{report.plugins} plugins with {report.registrations} IDs keep the contract")


def _open_files() -> Iterator[Finding]:
    try:
        import resource
    except ImportError:
        yield Finding("open files", "ok", _NOT_HERE)
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield _enough("open files", soft, f"run `ulimit -n {_words(hard)}` before, or set LimitNOFILE= of the unit")


def _threads() -> Iterator[Finding]:
    limits = {"control group": ControlGroups().threads(), "system": _number_in("/proc/sys/kernel/threads-max")}
    try:
        import resource
    except ImportError:
        pass
    else:
        limits["user"] = resource.getrlimit(resource.RLIMIT_NPROC)[0] if hasattr(resource, "RLIMIT_NPROC") else None
    known = {name: limit for name, limit in limits.items() if limit is not None and limit >= 0}
    if not known:
        yield Finding("threads", "ok", "no limit" if "user" in limits else _NOT_HERE)
        return
    name = min(known, key=known.__getitem__)
    fixes = {
        "control group": "raise the limit of processes of the container, or TasksMax= of the unit",
        "system": "raise kernel.threads-max with sysctl",
        "user": "raise the limit with `ulimit -u`, or LimitNPROC= of the unit",
    }
    yield _enough("threads", known[name], fixes[name], f" ({name})")


def _enough(name: str, limit: int, fix: str, whose: str = "") -> Finding:
    found = f"at most {_words(limit)}{whose}"
    return Finding(name, "warning", f"{found}, which is few", fix) if 0 <= limit < _FEW else Finding(name, "ok", found)


def _words(limit: int) -> str:
    return "unlimited" if limit < 0 else str(limit)


def _number_in(path: str) -> int | None:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _cpus() -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    limits = [cores, ControlGroups().cpus() or cores]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    usable = min(limits)
    if usable < cores:
        found = f"{usable:g} of the machine's {cores} cores may be used, but pools are made for {cores}"
        yield Finding("cores", "warning", found, "set thread_pool_size of services under `pool`, or raise the limit")
    else:
        yield Finding("cores", "ok", f"{cores}, all of which may be used")


def _memory() -> Iterator[Finding]:
    limit = ControlGroups().memory()
    if limit is None:
        yield Finding("memory", "ok", "no limit but the machine's own")
        return
    found = f"at most {limit // _MEBIBYTE} MiB (control group)"
    if limit < _LITTLE_MEMORY:
        yield Finding("memory", "warning", f"{found}, which is little", "raise the memory limit of the container")
    else:
        yield Finding("memory", "ok", found)


def _clock() -> Iterator[Finding]:
    import tempfile

    step = time.get_clock_info("monotonic").resolution
    if step > _COARSE:
        found = f"the monotonic clock steps by {step * 1e3:.1f} ms: timeouts are as coarse as that"
        yield Finding("clock", "warning", found, "use no timeouts below a tenth of a second")
        return
    with tempfile.TemporaryFile() as file:
        file.write(b"x")
        file.flush()
        skew = os.fstat(file.fileno()).st_mtime - time.time()
    ahead = Path(__file__).stat().st_mtime - time.time()
    fix = "set the clock: start its synchronisation (systemd-timesyncd, chrony, ...)"
    if abs(skew) > _SKEW:
        yield Finding("clock", "warning", f"{skew:+.0f} s between this clock and that of the temporary folder", fix)
    elif ahead > _DAY:
        found = f"the clock is wrong: sage-deploy was installed {ahead / _DAY:.0f} days in the future"
        yield Finding("clock", "warning", found, fix)
    else:
        yield Finding("clock", "ok", f"{time.strftime('%Y-%m-%d %H:%M:%S %Z')}, steps of {step * 1e9:.0f} ns")


def _folders() -> Iterator[Finding]:
    import tempfile

    try:
        working = Path.cwd()
    except OSError as error:
        found = f"the working folder is gone: {error.strerror}"
        yield Finding("working folder", "failure", found, "change to a folder that is there")
        return
    yield _writable("working folder", working, "warning", "run sage-deploy in a folder of your own")
    try:
        temporary = Path(tempfile.gettempdir())
    except OSError:
        yield Finding("temporary folder", "failure", "there is none", "set TMPDIR to a folder that you may write to")
        return
    yield _writable("temporary folder", temporary, "failure", "set TMPDIR to a folder with room that you may write to")


def _writable(name: str, folder: Path, otherwise: Status, fix: str) -> Finding:
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return Finding(name, otherwise, f"{folder} cannot be written to: {error.strerror}", fix)
    return Finding(name, "ok", f"{folder} can be written to")


def _encoding() -> Iterator[Finding]:
    import codecs
    import locale

    found = {
        "stdout": getattr(sys.stdout, "encoding", None) or "utf-8",
        "files": locale.getpreferredencoding(do_setlocale=False),
        "file names": sys.getfilesystemencoding(),
    }
    others = {what: name for what, name in found.items() if codecs.lookup(name).name != "utf-8"}
    if others:
        words = ", ".join(f"{what}: {name}" for what, name in others.items())
        yield Finding("encoding", "warning", f"not UTF-8: {words}", "set PYTHONUTF8=1, or LC_ALL=C.UTF-8")
    else:
        yield Finding("encoding", "ok", "UTF-8")


def _settings() -> Iterator[Finding]:
    """Warn of settings that are meant for developers of Python, or that break what services rely on."""
    found = False
    for spoils, what, fix in (
        (sys.flags.dev_mode, "development mode is on: calls are much slower", "run without -X dev and PYTHONDEVMODE"),
        (sys.flags.optimize, "assert statements of services do not run", "run without -O and PYTHONOPTIMIZE"),
        (os.environ.get("PYTHONASYNCIODEBUG"), "event loops are in debug mode: slow", "unset PYTHONASYNCIODEBUG"),
        (os.environ.get("PYTHONTRACEMALLOC"), "every allocation is recorded: slow", "unset PYTHONTRACEMALLOC"),
        ("debug" in os.environ.get("PYTHONMALLOC", ""), "every allocation is checked: slow", "unset PYTHONMALLOC"),
    ):
        if spoils:
            found = True
            yield Finding("settings", "warning", what, fix)
    if not found:
        yield Finding("settings", "ok", "no problematic Python settings")


#: The checks by name.
CHECKS: Final[Mapping[str, Callable[[], Iterator[Finding]]]] = {
    "Python": _python,
    "distributions": _distributions,
    "plugins": _plugins,
    "open files": _open_files,
    "threads": _threads,
    "cores": _cpus,
    "memory": _memory,
    "clock": _clock,
    "folders": _folders,
    "encoding": _encoding,
    "settings": _settings,
}
