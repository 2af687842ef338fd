"""
The pages of the documentation, and a runner that executes or checks their blocks.

The runner takes the blocks of a page in order, in one working folder and one namespace:

- `python` is executed. With a first line such as `# greeter.py`, it is also written to a file of that name.
- `pycon` is compared as in doctest; `...` stands for anything.
- `yaml` is read as a deployment file. It is written to a file if its first line names one. A file called `broken...`
  must be refused, when it is read or by a later command.
- `toml` is parsed.
- `console`: the arguments of `sage-deploy` are checked. It is executed if it ends by itself; so are `python FILE` and
  `pytest` with a file. The lines below a command are compared with its output. A command with a file called `broken...`
  must fail. `make` must have the target, and `ray` the command and its options. Named files must exist. `export` sets
  variables for later commands. `uvicorn` runs in tests/project/test_web_guide.py.
- `text` is not checked. Blocks such as `{literalinclude}` are for Sphinx.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import tomllib
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sage_deploy_cli import main as cli
from sage_deploy_files.reading import reader
from sage_plugins import Environment, errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
#: These run with a cluster, in tests/ray/cluster. Chinese pages have the blocks of the English ones.
ON_A_CLUSTER = [DOCS / "guides" / "from-laptop-to-cluster.md", DOCS / "guides" / "ray-cluster.md"]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
#: The plugin shown in docs/writing-plugins.md.
STRANGER = ROOT / "tests" / "third_party" / "acme-strategies"

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PATIENCE = 50

FENCE = re.compile(r"^(?P<fence>`{3,})(?P<kind>[^`\n]*)\n(?P<text>.*?)^(?P=fence)`*[ \t]*$", re.MULTILINE | re.DOTALL)
#: A rate of calls, which is not a path.
_RATE = re.compile(r"\d/s\b")
_NAMED = re.compile(r"# (?P<name>[\w.-]+\.(?:py|yaml))\n")


def make_targets() -> set[str]:
    """Return the targets of `make`, including `test-AREA` for each area, without variables such as `PYTHON=...`."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    areas = re.findall(r"^AREA_([a-z]+) :=", makefile, re.MULTILINE)
    return {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE), *(f"test-{area}" for area in areas)}


class Block(NamedTuple):
    """A fenced block of a page. *line* is the line of its first text."""

    kind: str
    text: str
    line: int

    @property
    def name(self) -> str | None:
        """The file that the first line names, or None."""
        found = _NAMED.match(self.text)
        return None if found is None else found["name"]


def blocks(page: str) -> list[Block]:
    return [
        Block(found["kind"].strip(), found["text"], page.count("\n", 0, found.start("text")) + 1)
        for found in FENCE.finditer(page)
    ]


class _Checker(doctest.OutputChecker):
    """Ignores Ray's messages about killed workers, which may appear at any time within an example's output."""

    RAYLET = re.compile(r"^(\x1b\[\d+m)?\(raylet\).*\n", re.MULTILINE)

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, self.RAYLET.sub("", got), optionflags)


class Page:
    """Takes the blocks of one page, in the current folder."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch, **variables: str) -> None:
        """Prepare. *variables* override the values that the page's `export` sets."""
        self._path = path
        self._variables = variables
        self._patch = patch
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._good_so_far: dict[str, str] = {}  # where each file called `broken...` is that nothing has refused yet

    def take_all(self) -> None:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for block in blocks(self._path.read_text(encoding="utf-8")):
                self._take(block)
            assert not self._good_so_far, f"nothing refuses these: {self._good_so_far}"
        except BaseException:  # the page closes no environments now, and the leak guard would report them
            for value in self._namespace.values():
                if isinstance(value, Environment):
                    value.close(drain_timeout=0)
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _take(self, block: Block) -> None:
        if block.kind.startswith("{") or block.kind == "text":
            return
        take = getattr(self, f"_take_{block.kind}", None)
        assert take is not None, f"{self._at(block)}: nothing checks a block of kind {block.kind!r}"
        if block.name is not None:
            Path(block.name).write_text(block.text, encoding="utf-8")
        take(block)

    def _at(self, block: Block) -> str:
        return f"{os.path.relpath(self._path, ROOT)}:{block.line}"

    def _take_python(self, block: Block) -> None:
        # Empty lines first, so that a traceback has the page's line numbers.
        source = "\n" * (block.line - 1) + block.text
        self._namespace["__file__"] = str(Path(block.name or self._path).absolute())
        exec(compile(source, str(self._path), "exec", dont_inherit=True), self._namespace)  # noqa: S102 - our own pages

    def _take_pycon(self, block: Block) -> None:
        name, said = self._at(block), []
        test = doctest.DocTestParser().get_doctest(block.text, self._namespace, name, str(self._path), block.line - 1)
        result = doctest.DocTestRunner(checker=_Checker(), optionflags=FLAGS).run(
            test, out=said.append, clear_globs=False
        )
        self._namespace.update(test.globs)
        assert result.attempted, f"{name}: no >>>"
        assert not result.failed, f"{name}\n{''.join(said)}"

    def _take_yaml(self, block: Block) -> None:
        name = block.name or f"line_{block.line}.yaml"
        Path(name).write_text(block.text, encoding="utf-8")
        try:
            reader.read(name)
        except errors.ConfigError:
            assert name.startswith("broken"), self._at(block)
        else:
            if name.startswith("broken"):
                self._good_so_far[name] = self._at(block)

    def _take_toml(self, block: Block) -> None:
        assert tomllib.loads(block.text), self._at(block)

    def _take_console(self, block: Block) -> None:
        assert block.text.startswith("$ "), f"{self._at(block)}: no command"
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            self._check_command(shlex.split(command, comments=True), output, f"{self._at(block)}: {command}")

    def _check_command(self, words: list[str], output: str, where: str) -> None:
        program, arguments = Path(words[0]).name, words[1:]
        for word in () if program == "curl" else arguments:
            assert "/" not in word or _RATE.search(word) or Path(word).exists() or (ROOT / word).exists(), (
                f"{where}: there is no {word}"
            )
        ends = False
        if program == "sage-deploy":
            self._parse(arguments)
            refused = _refused(arguments)
            named = [Path(word) for word in arguments if word.endswith(".yaml") and word not in refused]
            ends = (
                arguments[0] not in {"up", *cli.ELSEWHERE} - {"simulate"} or "--once" in arguments or bool(refused)
            ) and all(path.exists() for path in named)
        elif program == "make":
            assert set(arguments) <= make_targets(), where
        elif program in {"python", "pytest"}:
            ends = Path(arguments[-1 if program == "pytest" else 0]).exists()
        elif program == "ray":
            self._parse_ray(arguments)
        elif program == "uvicorn":
            assert Path(arguments[0].partition(":")[0] + ".py").exists(), where
        elif program == "curl":
            pass  # tests/server/test_guide.py runs these, and the commands for running services
        elif program == "export":
            self._export(arguments)
        else:
            assert program == "python3", f"{where}: nothing checks {program}"
        if ends:
            self._run(program, arguments, output, where)
        else:
            assert not output.strip(), f"{where}: nobody checks this output, make the block `text`"

    def _parse(self, arguments: list[str]) -> None:
        """Let click check the arguments, without running a command."""
        with self._patch.context() as patch:
            for command in _commands(cli.commands):
                patch.setattr(command, "callback", lambda **_: None)
            cli.commands.main(arguments, standalone_mode=False)

    def _parse_ray(self, arguments: list[str]) -> None:
        """Let Ray's own command line check the arguments, without starting anything."""
        from ray.scripts.scripts import cli as rays_commands  # takes a second

        command, *rest = arguments
        rays_commands.commands[command].make_context(command, rest)

    def _export(self, arguments: list[str]) -> None:
        """Set variables for later commands."""
        for argument in arguments:
            name, _, value = argument.partition("=")
            self._patch.setenv(name, self._variables.get(name, value))

    def _run(self, program: str, arguments: list[str], output: str, where: str) -> None:
        path = Path(sysconfig.get_path("scripts"), program) if program != "python" else Path(sys.executable)
        done = subprocess.run(
            [path, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        wrong = _refused(arguments)
        assert (done.returncode != 0) == bool(wrong), f"{where}: exit code {done.returncode}\n{done.stdout}"
        for name in wrong:
            self._good_so_far.pop(name, None)
        same = doctest.OutputChecker().check_output(output, done.stdout, FLAGS)
        assert same or not output.strip(), f"{where} printed\n{done.stdout}"


def _refused(arguments: list[str]) -> list[str]:
    """Return the files among the arguments that a command must refuse."""
    return [word for before, word in pairwise(["", *arguments]) if word.startswith("broken") and before != "--out"]


def _commands(group: click.Group) -> Iterator[click.Command]:
    yield from (command for _, command in named_commands(group))


def named_commands(group: click.Group, above: str = "sage-deploy") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that is not a group, with its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from named_commands(command, f"{above} {name}")
        else:
            yield f"{above} {name}", command


@contextmanager
def working_folder(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder from which modules can be imported. Forget them at the end."""
    before = set(sys.modules)
    patch.chdir(folder)
    patch.syspath_prepend(STRANGER)
    patch.syspath_prepend(folder)
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))  # for the run records of `up`
    yield
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin and any(Path(origin).is_relative_to(place) for place in (folder, STRANGER, ROOT / "examples")):
            del sys.modules[name]
