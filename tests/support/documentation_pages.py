"""
The pages of the documentation, and one that is taken by its word: its blocks run, or are checked.

The blocks of a page are taken in their order, in one working folder and one namespace:

- `python` runs. With a first line such as `# greeter.py` it is also written to a file of that name.
- `pycon` is compared as doctest does; `...` stands for anything.
- `yaml` is read as a deployment file. It is written to a file if its first line names one; a file called `broken...`
  must be refused, by reading it or by a command further down.
- `toml` is parsed.
- `console`: `sage-deploy` gets its arguments checked, and runs where that ends by itself; so does `python FILE`. What
  stands below the command is compared with what it prints, and a command on a file called `broken...` must fail.
  So does `pytest` on a file. `make` must have the target, `ray` the command and its options, and files that are named
  must exist. `export` sets variables for the commands after it. `uvicorn` runs in tests/project/test_web_guide.py.
- `text` is nobody's promise; blocks such as `{literalinclude}` are Sphinx's.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
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
#: They run beside a cluster, in tests/ray/cluster; pages in Chinese have the blocks of the English ones.
ON_A_CLUSTER = [DOCS / "guides" / "from-laptop-to-cluster.md", DOCS / "guides" / "ray-cluster.md"]
#: It needs two terminals and Ray: `tutorial_page` runs it, in tests/ray/cluster.
TUTORIAL = DOCS / "tutorial.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
#: The plugin that docs/writing-plugins.md shows.
STRANGER = ROOT / "tests" / "third_party" / "acme-strategies"

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PATIENCE = 50

FENCE = re.compile(r"^(?P<fence>`{3,})(?P<kind>[^`\n]*)\n(?P<text>.*?)^(?P=fence)`*[ \t]*$", re.MULTILINE | re.DOTALL)
#: A rate of calls, which is no path.
_RATE = re.compile(r"\d/s\b")
_NAMED = re.compile(r"# (?P<name>[\w.-]+\.(?:py|yaml))\n")


def make_targets() -> set[str]:
    """What `make` can be told, with `test-AREA` for each area; variables such as `PYTHON=...` are no targets."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    areas = re.findall(r"^AREA_([a-z]+) :=", makefile, re.MULTILINE)
    return {*re.findall(r"^([a-z-]+):", makefile, re.MULTILINE), *(f"test-{area}" for area in areas)}


class Block(NamedTuple):
    """One fenced block of a page; *line* is that of its first line of text."""

    kind: str
    text: str
    line: int

    @property
    def name(self) -> str | None:
        """The file that the first line names, if it does."""
        found = _NAMED.match(self.text)
        return None if found is None else found["name"]


def blocks(page: str) -> list[Block]:
    return [
        Block(found["kind"].strip(), found["text"], page.count("\n", 0, found.start("text")) + 1)
        for found in FENCE.finditer(page)
    ]


class _Checker(doctest.OutputChecker):
    """Leaves out what Ray prints of workers that are killed: it comes at any moment, amid the output of an example."""

    RAYLET = re.compile(r"^(\x1b\[\d+m)?\(raylet\).*\n", re.MULTILINE)

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, self.RAYLET.sub("", got), optionflags)


class Page:
    """Takes the blocks of one page; works in the current folder."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch, **variables: str) -> None:
        """Prepare; *variables* are those that have other values here than the page's `export` gives them."""
        self._path = path
        self._variables = variables
        self._patch = patch
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._good_so_far: dict[str, str] = {}  # where the files called `broken...` stand that nothing has refused

    def take_all(self) -> None:
        try:
            for block in blocks(self._path.read_text(encoding="utf-8")):
                self._take(block)
            assert not self._good_so_far, f"nothing refuses these: {self._good_so_far}"
        except BaseException:  # else the leak guard would report what the page could not close any more
            for value in self._namespace.values():
                if isinstance(value, Environment):
                    value.close(drain_timeout=0)
            raise

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
        # Empty lines before it, so that a traceback points into the page.
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
            pass  # of tests/server/test_guide.py, as the commands for what runs
        elif program == "export":
            self._export(arguments)
        else:
            assert program == "python3", f"{where}: nothing checks {program}"
        if ends:
            self._run(program, arguments, output, where)
        else:
            assert not output.strip(), f"{where}: nobody checks this output, make the block `text`"

    def _parse(self, arguments: list[str]) -> None:
        """Have click check the arguments; no command does anything."""
        with self._patch.context() as patch:
            for command in _commands(cli.commands):
                patch.setattr(command, "callback", lambda **_: None)
            cli.commands.main(arguments, standalone_mode=False)

    def _parse_ray(self, arguments: list[str]) -> None:
        """Have Ray's own command line check the arguments; nothing is started."""
        from ray.scripts.scripts import cli as rays_commands  # takes a second

        command, *rest = arguments
        rays_commands.commands[command].make_context(command, rest)

    def _export(self, arguments: list[str]) -> None:
        """Set variables for what comes after."""
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
    """The files that a command is given and must refuse."""
    return [word for before, word in pairwise(["", *arguments]) if word.startswith("broken") and before != "--out"]


def _commands(group: click.Group) -> Iterator[click.Command]:
    yield from (command for _, command in named_commands(group))


def named_commands(group: click.Group, above: str = "sage-deploy") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with all its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from named_commands(command, f"{above} {name}")
        else:
            yield f"{above} {name}", command


@contextmanager
def working_folder(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder whose modules can be imported, and are forgotten at the end."""
    before = set(sys.modules)
    patch.chdir(folder)
    patch.syspath_prepend(STRANGER)
    patch.syspath_prepend(folder)
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))  # where `up` notes what runs
    yield
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin and any(Path(origin).is_relative_to(place) for place in (folder, STRANGER, ROOT / "examples")):
            del sys.modules[name]
