"""
The deployment files of the tests: good and bad ones in folders, and bad ones that are written on demand.

The expected results are next to the files. This command updates them, for review:

    python tests/support/deployment_files.py

For bad files, the result is the exact message; each rule has one text file. For a good file, it is the file that `dump`
writes, with its warnings. The first line of a file may choose the profile to read it with: `# profile: NAME`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from sage_deploy_files import FileProblem, dump, read
from sage_deploy_files.reading.nodes import MAX_BYTES, MAX_NODES, MAX_SCALAR
from sage_plugins import Environment
from sage_plugins.errors import ConfigError, PlanError, UnknownPluginError
from sage_plugins.plugins.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BAD = Path(__file__).resolve().parent.parent / "deployment_files" / "bad"
GOOD = BAD.parent / "good"

#: The complete environment in which the files are read.
VARIABLES = {
    "BYTES": "a\udcffb",  # Python's form of a byte that is not UTF-8
    "CONTROL": "a\x1b[31mb",
    "DB_PASSWORD": "hunter2",
    "DURATION": "0s",
    "EMPTY": "",
    "FIELD": "timeout",
    "FLAG": "true",
    "LONG": "x" * 60_000,
    "NUMBER": "4",
    "TEXT": "some text",
    "ZERO": "0",
    "ZERO_TOKEN": "0",
}

_HEAD = "services:\n  reader:\n    "


def _lines(line: str, size: int = MAX_BYTES - 1000) -> str:
    """Return as many numbered lines as a file may have."""
    return "".join(line.format(number) for number in range(size // (len(line) + 3)))


def _bombs() -> dict[str, str]:
    """Return files that are too large for the repository, but small compared to what they demand of the reader."""
    return {
        "E101-thousands": _HEAD.rstrip(" ") + _lines("    thread_coun{}: 1\n"),
        "E102-thousands": "services:\n" + _lines("  s{}: {{replicas: x}}\n"),
        "E102-thousands-of-keys": _HEAD + "user_config: {" + "[a]: 1, " * 20_000 + "}\n",
        "E103-thousands-of-names": _HEAD + "monitors: [" + "a, " * 40_000 + "]\n",
        "E104-thousands": _HEAD + "user_config:\n" + _lines("      a: {}\n"),
        "E105-thousands": _HEAD + "user_config:\n" + _lines("      a{0}: ${{NONE_{0}}}\n"),
        "E106-thousands": _HEAD + "user_config: {a: [" + "!a x, " * 24_000 + "]}\n",
        "E108-alias-a-thousand-times": _HEAD + f"user_config: {{a: &a [{'x, ' * 1000}], b: [{'*a, ' * 1000}]}}\n",
        "E108-bytes": "#" * (MAX_BYTES + 1),
        "E108-characters": _HEAD + "target: " + "x" * (MAX_SCALAR + 1) + "\n",
        "E108-deep-braces": "{a: " * 50_000,
        "E108-deep-brackets": "[" * 200_000,
        "E108-deep-dashes": "- " * 100_000,
        "E102-deep-questions": "? " * 100_000,
        "E108-defaults-of-thousands": "defaults:\n  user_config:\n"
        + "".join(f"    key_{number}: 1\n" for number in range(5_000))
        + "services:\n"
        + "".join(f"  s{number}: {{user_config: {{a: 1}}}}\n" for number in range(3_000)),
        "E108-keys-and-values": "[" + "1," * MAX_NODES + "]",
        "E108-merge-a-thousand-times": _HEAD
        + "user_config:\n      a: &a {"
        + ", ".join(f"k{number}: 1" for number in range(1000))
        + "}\n"
        + "".join(f"      b{number}: {{<<: *a}}\n" for number in range(1000)),
        "E108-merge-in-a-chain": "services:\n  reader:\n    user_config:\n      m0: &m0 {a: 1}\n"
        + "".join(f"      m{number}: &m{number} {{<<: *m{number - 1}, a{number}: 1}}\n" for number in range(1, 1000)),
        "E108-variable-twice": _HEAD + 'target: "${LONG}${LONG}"\n',
        "E108-variables": _HEAD + "user_config: [" + '"${LONG}", ' * 10_000 + "]\n",
        "E402-thousands": "defaults: {replicas: 2, load_balancing: false, update: {max_surge: 0}, queue_timeout: 90}\n"
        "services:\n" + "".join(f"  s{number}:\n" for number in range(20_000)),
        "E110-escapes": _HEAD + 'user_config: {a: "' + "\\u0061" * 10_000 + '", b: "\\ud800"}\n',
        "E110-open-quote": _HEAD + "user_config: 'a" + "\n" * 200_000,
        "E110-colons": "services: " + "a: " * 80_000,
        "E110-directives": "%TAG !a! b\n" * 20_000,
        "E111-thousands": _HEAD + "user_config: {a: [" + "*a, " * 40_000 + "]}\n",
        "E111-thousands-of-anchors": _HEAD
        + "user_config:\n      a:\n"
        + _lines("      - &anchor_{} x\n", MAX_BYTES // 2)
        + _lines("      - *ancor_{}\n", MAX_BYTES // 4),
    }


#: Files that are not text, or that some editors would change.
_BYTES = {
    "E110-bom-inside": "services:\n  \ufeffreader:\n".encode(),
    "E110-bom-of-second-file": "services:\n  reader:\n\ufeffdefaults: {timeout: 3}\n".encode(),
    "E110-control-character": b"services:\n  reader:\n    target: loc\x07al\n",
    "E110-control-character-c1": "services:\n  reader:\n    target: loc\x9fal\n".encode(),
    "E110-control-character-delete": b"services:\n  reader: {}\x7f\n",
    "E110-control-character-escape": b"services:\n  \x1b[31mreader: {}\n",
    "E110-cut-character": "services: {} # 服务".encode()[:-1],
    "E110-latin-1": "services:\n  reader:\n    user_config: {street: Königsallee}\n".encode("latin-1"),
    "E110-latin-1-behind-umlauts": "# Bücher\nservices:\n  # ä, ö\n  ".encode() + "ü: {}\n".encode("latin-1"),
    "E110-nul": b"services:\n  reader:\0\n",
    "E110-overlong": b"services:\n  re\xc0\xafader:\n",
    "E110-surrogate-bytes": b"services:\n  reader: {target: \xed\xa0\x80}\n",
    "E110-utf-16": "services:\n  reader:\n".encode("utf-16"),
    "E110-utf-16-big": b"\xfe\xff" + "services:\n  reader:\n".encode("utf-16-be"),
    "E110-utf-16-without-mark": "services:\n  reader:\n".encode("utf-16-le"),
    "E110-utf-32": "services:\n  reader:\n".encode("utf-32"),
    "E110-utf-8-mark-then-latin-1": b"\xef\xbb\xbfservices:\n  reader: # caf\xe9\n",
    "E110-windows-1252": "services:\n  reader: {user_config: {a: “b”}}\n".encode("cp1252"),
    "E110-zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00services",
}

#: Other things at a path than a file.
_PLACES: dict[str, Callable[[Path], object]] = {
    "E109-device": lambda path: path.symlink_to("/dev/zero"),
    "E109-directory": lambda path: path.mkdir(),
    "E109-fifo": os.mkfifo,
    "E109-link-to-nothing": lambda path: path.symlink_to("nothing"),
    "E109-loop": lambda path: path.symlink_to(path),
    "E109-missing": lambda path: None,
    "E109-other-loop": lambda path: (path.symlink_to("E109-back"), path.with_name("E109-back").symlink_to(path.name)),
    # Anybody may open this, but reading fails: it is a process's memory, whose first page is not mapped.
    "E109-unreadable": lambda path: path.symlink_to("/proc/self/mem"),
}


def names(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in folder.glob("*.yaml"))


def written() -> list[str]:
    """Return the names of the files that `write` writes."""
    return sorted(f"{name}.yaml" for name in [*_bombs(), *_BYTES, *_PLACES])


def write(folder: Path) -> None:
    """Write the files that are not in the repository."""
    contents = {name: text.encode() for name, text in _bombs().items()} | _BYTES
    for name, data in contents.items():
        (folder / f"{name}.yaml").write_bytes(data)
    for name, make in _PLACES.items():
        make(folder / f"{name}.yaml")


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """Work in *folder*, with the variables and the classes that the files name."""
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, VARIABLES, clear=True),
        mock.patch.object(sys, "path", [str(BAD), *sys.path]),
    ):
        try:
            yield
        finally:
            for name in [name for name in sys.modules if name.startswith("bookshop")]:
                del sys.modules[name]


@functools.cache
def _registry() -> Registry:
    return Registry.discover()


def profile_of(path: Path) -> str | None:
    """Return the profile that the first line of a file chooses: `# profile: NAME`."""
    if not path.is_file() or path.is_symlink():
        return None
    with path.open("rb") as file:
        found = re.match(rb"# profile: ([\w-]+)\n", file.readline(100))
    return found[1].decode() if found else None


def refusal(name: str) -> ConfigError | PlanError | UnknownPluginError | None:
    """Read and plan a file of the current directory. Return its refusal, or None if it is accepted."""
    env = Environment("corpus", registry=_registry())
    try:
        env.load_service_deployment_config(name, profile=profile_of(Path(name)))
        env.plan()
    except (ConfigError, PlanError, UnknownPluginError) as error:
        return error
    finally:
        env.close()
    return None


def check_refusal(name: str, expected: str) -> None:
    """Check that a file of the current directory is refused with the expected message, and what each problem says."""
    error = refusal(name)
    assert str(error) == expected, f"{name} is answered: {error}"
    assert error is not None
    errors = [problem for problem in error.problems if problem.severity == "error"]
    assert errors[0].id == name.partition("-")[0], "the file's name begins with the rule of its first error"
    assert len(error.problems) <= MAX_NODES, "no more problems than keys and values"
    for problem in error.problems:
        assert isinstance(problem, FileProblem)
        assert str(problem).isprintable()
        assert str(problem).startswith(f"{name}:{problem.line}:{problem.column}: ")


def outcome(name: str) -> str:
    """Return the warnings of a good file in the current directory, and the file that `dump` writes."""
    file = read(name, profile=profile_of(Path(name)))
    return "".join(f"# {warning}\n" for warning in file.problems) + dump(file)


def expected_refusals() -> dict[str, str]:
    """Return the expected message of each bad file, by name."""
    blocks = [block for text in BAD.glob("*.txt") for block in text.read_text("utf-8").strip().split("\n\n")]
    return {block.partition(".yaml")[0] + ".yaml": block for block in blocks}


def main() -> None:
    """Rewrite the expected results."""
    for old in (*BAD.glob("*.txt"), *GOOD.glob("*.txt")):
        old.unlink()
    blocks: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        for group, where in ((names(BAD), BAD), (written(), Path(folder))):
            with surroundings(where):
                for name in group:
                    blocks.setdefault(name.partition("-")[0], []).append(str(refusal(name) or f"{name}: not refused"))
    for rule, texts in blocks.items():
        (BAD / f"{rule}.txt").write_text("\n\n".join(sorted(texts)) + "\n", encoding="utf-8")
    with surroundings(GOOD):
        for name in names(GOOD):
            Path(name).with_suffix(".txt").write_text(outcome(name), encoding="utf-8")


if __name__ == "__main__":
    main()
