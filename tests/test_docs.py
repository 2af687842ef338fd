"""
The documentation says what is so: its blocks run or are checked, and what it must mention it mentions.

Each page is one test. Its blocks are taken in their order, in one working folder and one namespace:

- `python` runs. With a first line such as `# greeter.py` it is also written to a file of that name.
- `pycon` is compared as doctest does; `...` stands for anything.
- `yaml` is read as a deployment file. It is written to a file if its first line names one; a file called `broken...`
  must be refused, by reading it or by a command further down.
- `toml` is parsed.
- `console`: `sage-deploy` gets its arguments checked, and runs where that ends by itself; so does `python FILE`. What
  stands below the command is compared with what it prints, and a command on a file called `broken...` must fail.
  `make` must have the target, and files that are named must exist.
- `text` is nobody's promise; blocks such as `{literalinclude}` are Sphinx's.
"""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import itertools
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import pytest

import sage_plugins
from sage_plugins import Environment, cli, errors, hookspecs
from sage_plugins.config import fields
from sage_plugins.deployment_file import reader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
#: The plugin that docs/writing-plugins.md shows.
STRANGER = ROOT / "tests" / "third_party" / "acme-strategies"

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PATIENCE = 50

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<kind>[^`\n]*)\n(?P<text>.*?)^(?P=fence)`*[ \t]*$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# (?P<name>[\w.-]+\.(?:py|yaml))\n")


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
        for found in _FENCE.finditer(page)
    ]


class Page:
    """Takes the blocks of one page; works in the current folder."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self._path = path
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
        exec(compile(source, str(self._path), "exec", dont_inherit=True), self._namespace)  # noqa: S102 - our own pages

    def _take_pycon(self, block: Block) -> None:
        name, said = self._at(block), []
        test = doctest.DocTestParser().get_doctest(block.text, self._namespace, name, str(self._path), block.line - 1)
        result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append, clear_globs=False)
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
        for word in arguments:
            assert "/" not in word or Path(word).exists() or (ROOT / word).exists(), f"{where}: there is no {word}"
        ends = False
        if program == "sage-deploy":
            self._parse(arguments)
            refused = _refused(arguments)
            named = [Path(word) for word in arguments if word.endswith(".yaml") and word not in refused]
            ends = (arguments[0] != "up" or "--once" in arguments or bool(refused)) and all(
                path.exists() for path in named
            )
        elif program == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            assert set(arguments) <= set(targets), where
        elif program == "python":
            ends = Path(arguments[0]).exists()
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
    return [
        word for before, word in itertools.pairwise(["", *arguments]) if word.startswith("broken") and before != "--out"
    ]


def _commands(group: click.Group) -> Iterator[click.Command]:
    yield from (command for _, command in _named_commands(group))


def _named_commands(group: click.Group, above: str = "sage-deploy") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with all its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _named_commands(command, f"{above} {name}")
        else:
            yield f"{above} {name}", command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder whose modules can be imported, and are forgotten at the end."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))  # where `up` notes what runs
    yield tmp_path
    for name in set(sys.modules) - before:
        origin = getattr(sys.modules[name], "__file__", None)
        if origin and any(Path(origin).is_relative_to(place) for place in (tmp_path, STRANGER, ROOT / "examples")):
            del sys.modules[name]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_of(path, folder, monkeypatch):
    """Whoever copies a block gets what the page says."""
    if "examples" in path.relative_to(ROOT).parts:
        monkeypatch.syspath_prepend(path.parent)
    Page(path, monkeypatch).take_all()


GOOD = "```yaml\n# {}.yaml\nservices: {{}}\n```\n"
BAD = "```yaml\n# {}.yaml\nservices: []\n```\n"
PLAN = "```console\n$ sage-deploy plan {}.yaml\n{}\n```\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD.format("broken"), "nothing refuses"),
        (GOOD.format("broken") + PLAN.format("broken", ""), "exit code 0"),
        (BAD.format("good"), "page.md:2"),
        (BAD.format("broken") + PLAN.format("broken", "broken.yaml:1:1: error"), "printed"),
        (PLAN.format("broken-missing", "broken-missing.yaml has 2 problems: ..."), "printed"),
        (PLAN.format("missing", "missing.yaml has 1 problem: ..."), "nobody checks this output"),
    ],
)
def test_page_that_says_what_is_not_so_is_found(text, fault, folder, monkeypatch):
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match=fault):
        Page(page, monkeypatch).take_all()


def test_page_that_says_what_is_so_passes(folder, monkeypatch):
    page = folder / "page.md"
    refused = BAD.format("broken") + PLAN.format("broken", "broken.yaml has 1 problem: ...")
    page.write_text(refused + PLAN.format("broken-missing", "... E109: ..."), encoding="utf-8")
    Page(page, monkeypatch).take_all()


def test_pages_run_something():
    """The blocks are found: a fence that is spelled otherwise would be passed over."""
    kinds = [block.kind for path in PAGES for block in blocks(path.read_text(encoding="utf-8"))]
    assert kinds.count("python") > 5
    assert kinds.count("pycon") > 5
    assert kinds.count("yaml") > 5
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert f"\n{text}".count("\n```") == 2 * len(blocks(text)), f"{path}: a fence that is not closed, or indented"


# -- what must be mentioned ------------------------------------------------------------------------------------------


def text_of(*names: str) -> str:
    paths = [DOCS / name for name in names] or [path for path in PAGES if DOCS in path.parents]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


@pytest.mark.parametrize("name", sage_plugins.__all__)
def test_public_name_is_documented(name):
    """It has a docstring of its own, and some page tells what it is for."""
    value = getattr(sage_plugins, name)
    document = vars(value).get("__doc__") if isinstance(value, type) else inspect.getdoc(value)
    assert document
    assert re.search(rf"`(sage_plugins\.)?{name}\b", text_of()), f"no page mentions `{name}`"


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name.endswith("Error")])
def test_error_is_documented(name):
    assert getattr(errors, name).__doc__
    assert f"`{name}`" in text_of("api.md")


@pytest.mark.parametrize(("name", "command"), list(_named_commands(cli.commands)))
def test_command_is_documented(name, command):
    """It has a section of its own, which names each of its options, and stands in the table of commands."""
    page = text_of("cli.md")
    table, *_ = page.split("\n## ")
    (section,) = re.findall(rf"^## `{name}`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert f"| [`{name}`](#{name.replace(' ', '-')}) |" in table
    for option in (option for parameter in command.params for option in parameter.opts if option.startswith("--")):
        assert re.search(rf"`{option}[ `]", section), option


def test_every_exit_code_and_every_command_that_is_elsewhere_is_documented():
    page = text_of("cli.md")
    for code in cli.ExitCode:
        assert f"\n| {code.value} | " in page
    for name in cli.ELSEWHERE:
        assert f"`{name}`" in page


def script(path: str) -> ModuleType:
    """A module of the repository that belongs to no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook_reference = script("tools/hook_reference.py")
#: Where pluggy keeps what a hook was declared with.
MARK = f"{hookspecs.PROJECT}_spec"


def test_hook_reference_is_up_to_date():
    """Every hook and interface stands there as the code declares it."""
    page = text_of("hooks.md")
    assert hook_reference.updated(page) == page, "run: tools/hook_reference.py"


def test_hook_reference_has_every_hook():
    """What pluggy knows is what the page describes, with its exact arguments."""
    specified = {name: inspect.signature(hook) for name, hook in vars(hookspecs).items() if hasattr(hook, MARK)}
    listed = {hook.name: hook for hook in hook_reference.hooks()}
    assert listed.keys() == specified.keys()
    assert specified
    for name, signature in specified.items():
        assert listed[name].signature.startswith(f"{name}({', '.join(signature.parameters)})")


def undocumented() -> Iterator[str]:
    """Hooks, interfaces and values, and their members, that have no docstring."""
    yield from (hook.name for hook in hook_reference.hooks() if not hook.doc)
    for path in (hook_reference.INTERFACES, hook_reference.VALUES):
        for each in hook_reference.described(path):
            if not each.doc:
                yield each.name
            # The constants of an enumeration say enough with their names.
            yield from (
                f"{each.name}.{member.name}" for member in each.members if not member.doc and not member.constant
            )


def test_every_hook_and_member_of_an_interface_has_a_docstring():
    """It is what the reference consists of."""
    assert list(undocumented()) == []


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ('    """The replica\'s id, such as `"kv#0"`."""\n', "", "Seat.name"),
        ("def close(self) -> None:", "def open(self) -> None: ...\n\n    def close(self) -> None:", "Target.open"),
    ],
)
def test_member_without_docstring_is_found(old, new, missing, tmp_path, monkeypatch):
    text = hook_reference.INTERFACES.read_text(encoding="utf-8")
    assert old in text
    changed = tmp_path / "interfaces.py"
    changed.write_text(text.replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr(hook_reference, "INTERFACES", changed)

    assert list(undocumented()) == [missing]
    assert hook_reference.updated(text_of("hooks.md")) != text_of("hooks.md")


@pytest.fixture(scope="module")
def field_table():
    """The module tools/field_table.py."""
    return script("tools/field_table.py")


@pytest.fixture(scope="module")
def chinese(field_table):
    return field_table.Translation(text_of("zh/fields.toml"))


@pytest.mark.parametrize("name", ["configuration.md", "zh/configuration.md"])
def test_field_tables_are_up_to_date(name, field_table, chinese):
    """Every field stands there as the code declares it."""
    page = text_of(name)

    assert field_table.updated(page, chinese if name.startswith("zh/") else str) == page, "run: tools/field_table.py"
    for field in fields():
        assert f"| `{field}` |" in page


def test_every_field_is_translated(chinese):
    """And no translation is of what the code does not say any more."""
    assert chinese.problems() == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[fields.timeout]", "[fields.time_out]", ["fields.time_out: no such field", "fields.timeout: not translated"]),
        ('en = "Number of replicas', 'en = "Count of replicas', ["fields.replicas: the code says now: Number of"]),
        ('"boolean" =', '"bool" =', ["words: 'bool' stands in no table", "words: 'boolean' is not translated"]),
    ],
)
def test_stale_translation_is_found(old, new, problem, field_table):
    text = text_of("zh/fields.toml")
    assert text.count(old) == 1

    found = field_table.Translation(text.replace(old, new)).problems()

    assert len(found) == len(problem)
    assert all(line.startswith(start) for line, start in zip(found, problem, strict=True))


@pytest.fixture(scope="module")
def rules():
    """Every rule that a problem may name, as the code has them."""
    sources = [*ROOT.glob("sage_plugins/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py")]
    texts = (path.read_text(encoding="utf-8") for path in sources)
    return sorted({rule for text in texts for rule in re.findall(r"""(?<!`)"([EW]\d{2,3})"(?!`)""", text)})


_RULE = re.compile(
    r"^\((?P<anchor>\w+)\)=\n## (?P<rule>[EW]\d+) \S.*\n(?P<text>(?:(?!^\(\w+\)=\n).*\n)*)", re.MULTILINE
)
_PARTS = re.compile(r"^\*\*(Cause|Fix|Example)\.\*\*", re.MULTILINE)


def documented_rules(page: str) -> list[str]:
    return re.findall(r"^## ([EW]\d+)", page, re.MULTILINE)


def rule_faults(page: str, rules: list[str]) -> list[str]:
    """What docs/errors.md lacks, and what is too much, if the code reports *rules*."""
    sections = {found["rule"]: found for found in _RULE.finditer(page)}
    headings = documented_rules(page)
    rows = re.findall(r"^\| \[([EW]\d+)\]\(#(\w+)\) \| \S.* \|$", page, re.MULTILINE)
    faults = [f"{rule}: no section" for rule in rules if rule not in headings]
    faults += [f"{rule}: nothing reports it" for rule in headings if rule not in rules]
    faults += [f"{rule}: two sections" for rule in sorted({each for each in headings if headings.count(each) > 1})]
    faults += [f"{rule}: no anchor" for rule in headings if rule not in sections]
    if rows != [(rule, rule.lower()) for rule in headings]:
        faults.append("the list at the top is not that of the sections, in their order")
    for rule, found in sections.items():
        if found["anchor"] != rule.lower():
            faults.append(f"{rule}: its anchor is {found['anchor']}")
        if _PARTS.findall(_FENCE.sub("", found["text"])) != ["Cause", "Fix", "Example"]:
            faults.append(f"{rule}: not cause, fix and example")
        message = f"{'error' if rule.startswith('E') else 'warning'} {rule}: "
        shown = found["text"].partition("**Example.**")[2]
        if not any(message in block.text for block in blocks(shown) if block.kind in {"console", "pycon"}):
            faults.append(f"{rule}: no example of its message that is run")
    return faults


def test_rules_are_documented(rules):
    """Every rule that a problem may name has one section, with its cause, what to do, and an example; no other has."""
    assert rules
    assert rule_faults(text_of("errors.md"), rules) == []


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        ("## E301 ", "## E999 ", ["E301: no section", "E999: nothing reports it", "the list at", "E999: its anchor"]),
        ("(w05)=\n", "", ["W05: no anchor"]),
        ("(e301)=", "(e3o1)=", ["E301: its anchor"]),
        ("| [E301](#e301) |", "| [E301](#e302) |", ["the list at the top"]),
        ("error E603: ", "error: ", ["E603: no example"]),
    ],
)
def test_rule_without_section_is_found(old, new, faults):
    page = text_of("errors.md")
    assert page.count(old) == 1

    found = rule_faults(page.replace(old, new), documented_rules(page))

    assert [fault for fault, start in zip(found, faults, strict=False) if not fault.startswith(start)] == []
    assert len(found) >= len(faults)


@pytest.mark.parametrize("part", ["Cause", "Fix", "Example"])
def test_section_without_part_is_found(part):
    page = text_of("errors.md").replace(f"**{part}.**", f"{part}.", 1)
    assert rule_faults(page, documented_rules(page))[0] == "E101: not cause, fix and example"


def test_measured_table_is_of_what_the_script_measures(monkeypatch):
    """benchmarks/strategies.py would write the same rows and columns, with other figures."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    strategies = script("benchmarks/strategies.py")
    page = strategies.PAGE.read_text(encoding="utf-8")
    table = page.partition(strategies.START)[2].partition(strategies.END)[0]
    header, _, *rows = (line.strip("|").split("|") for line in table.strip().splitlines() if line.startswith("|"))

    assert [cell.strip(" `") for cell in header] == ["service", *strategies.STRATEGIES]
    assert [row[0].strip() for row in rows] == list(strategies.CALLS)
    assert all(re.fullmatch(r" \d\.\d\d ", cell) for row in rows for cell in row[1:])


# -- pages in two languages ------------------------------------------------------------------------------------------


TRANSLATED = [path.name for path in sorted((DOCS / "zh").glob("*.md"))]


def sections(page: str) -> list[tuple[int, set[str]]]:
    """The level of each heading, and what is set as code below it, in the text."""
    prose = re.sub(r"<!-- fields:start -->.*<!-- fields:end -->", "", _FENCE.sub("", page), flags=re.DOTALL)
    parts = re.split(r"^(#+) ", prose, flags=re.MULTILINE)[1:]
    return [
        (len(level), set(re.findall(r"`([^`\n]+)`", text))) for level, text in zip(parts[::2], parts[1::2], strict=True)
    ]


@pytest.mark.parametrize("name", TRANSLATED)
def test_translation_follows_its_page(name):
    """It has the same headings and blocks, and every section mentions the same names; each page links to the other."""
    english, chinese = text_of(name), text_of(f"zh/{name}")

    assert sections(chinese) == sections(english)
    for ours, theirs in zip(blocks(chinese), blocks(english), strict=True):
        assert ours.kind == theirs.kind
        assert ours.text == theirs.text or ours.kind == "text", f"docs/zh/{name}:{ours.line}"
    assert f"](zh/{name})" in english
    assert f"](../{name})" in chinese


def test_translations_are_found():
    assert {"configuration.md", "quickstart.md"} <= set(TRANSLATED)
