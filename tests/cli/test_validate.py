"""`sage-deploy validate` reports every problem of a file at once and starts nothing. `--no-import` imports no class."""

from __future__ import annotations

import pytest

from command_line import sage_deploy
from sage_deploy_files.reading.reader import read
from things import deployment, write_things


@pytest.fixture
def folder(tmp_path):
    return write_things(tmp_path)


def test_a_good_file_is_called_good(folder):
    """A good file exits with 0 and shows its warnings and a summary."""
    file = deployment(folder, "services: {failing: {class: 'things:Failing', memory_mb: 1Gi}}\n")
    done = sage_deploy("validate", file, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{file}:1:58: warning W05: services.failing.memory_mb" in done.stdout
    assert done.stdout.endswith(f"{file}: 1 service, 1 warning\n")


def test_everything_that_is_wrong_is_said_at_once_with_its_place(folder):
    """
    All problems of classes, arguments, methods, plugins and options are reported at once, in the order of the file.
    """
    file = deployment(
        folder,
        """\
        services:
          one:
            class: things:Countr
            threading_strategy: pol
          two:
            class: things:Counter
            init: {kwargs: {strat: 1}}
            thread_count: 2
          three:
            class: things:Keeper
            methods: {proces: {timeout: 5s}}
            options: {events: {sise: 5}}
        """,
    )
    done = sage_deploy("validate", file, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    first, *lines = done.stderr.splitlines()
    assert first == f"{file} has 7 problems:"
    assert [line.strip().removeprefix(f"{file}:").split(": ")[0:2] for line in lines] == [
        ["3:12", "error E703"],
        ["4:25", "error E207"],
        ["7:12", "error E704"],
        ["7:21", "error E704"],
        ["8:19", "error E301"],
        ["11:15", "error E505"],
        ["12:24", "error E101"],
    ]
    for words in (
        "did you mean 'Counter'?",
        "did you mean 'pool'?",
        "did you mean 'start'?",
        "did you mean 'process'?",
    ):
        assert words in done.stderr


@pytest.mark.parametrize("command", ["validate", "plan", "up"])
def test_a_wrong_value_hides_no_problem_of_plugins_and_classes(folder, command):
    """A wrong value does not hide other problems, in any command that reads the file."""
    file = deployment(folder, "services: {kv: {class: 'nowhere:KV', replicas: 0, threading_strategy: pol}}\n")
    done = sage_deploy(command, file, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(": ")[1] for line in done.stderr.splitlines()[1:]] == ["error E703", "error E103", "error E207"]


def test_a_wrong_value_imports_no_class_with_no_import(folder):
    """With `--no-import`, a file with wrong values does not import its classes either."""
    (folder / "loud.py").write_text("raise SystemExit('imported')\n")
    file = deployment(folder, "services: {kv: {class: 'loud:KV', replicas: 0, threading_strategy: pol}}\n")
    done = sage_deploy("validate", file, "--no-import", cwd=folder)
    assert done.returncode == 2
    assert [line.split(": ")[1] for line in done.stderr.splitlines()[1:]] == ["error E103", "error E207"]


def test_without_import_no_module_is_run_and_plugins_are_asked_all_the_same(folder):
    """With `--no-import` no module is imported, and plugins still check the file."""
    (folder / "loud.py").write_text("raise SystemExit('imported')\n")
    good = deployment(folder, "services: {kv: {class: 'loud:KV'}}\n")
    assert sage_deploy("validate", good, "--no-import", cwd=folder).returncode == 0
    done = sage_deploy("validate", good, cwd=folder)
    assert done.returncode == 2
    assert "error E703: services.kv.class: cannot import 'loud:KV': SystemExit: imported" in done.stderr
    bad = deployment(folder, "services: {kv: {class: 'loud:KV', thread_count: 4}}\n")
    done = sage_deploy("validate", bad, "--no-import", cwd=folder)
    assert done.returncode == 2
    assert "E301" in done.stderr


def test_what_has_no_effect_is_said_without_import_as_well(folder):
    """Settings without effect are warnings also with `--no-import`."""
    settings = "monitors: [], failure_threshold: 5, replicas: 2, failover_enabled: true"
    text = f"services: {{keeper: {{class: 'things:Keeper', {settings}}}}}\n"
    file = deployment(folder, text)
    imported, not_imported = (
        sage_deploy("validate", file, *more, cwd=folder).stdout for more in ((), ("--no-import",))
    )
    assert imported == not_imported
    assert "warning W12: services.keeper.failure_threshold: has no effect: no monitor" in imported
    assert "warning W13: services.keeper.failover_enabled: has no effect on target 'local'" in imported


def test_the_working_directory_is_searched_before_the_folder_of_the_file(folder, tmp_path_factory):
    """Classes are looked up in the working directory before the file's folder."""
    other = tmp_path_factory.mktemp("other")
    (other / "things.py").write_text("class Here:\n    pass\n")
    file = deployment(folder, "services: {kv: {class: 'things:Here'}}\n")
    assert sage_deploy("validate", file, cwd=other).returncode == 0
    assert sage_deploy("validate", file, cwd="/").returncode == 2


def test_an_entry_without_class_is_a_warning(folder):
    """An entry without a class is a warning."""
    file = deployment(folder, "services: {kv: {timeout: 5}}\n")
    done = sage_deploy("validate", file, cwd=folder)
    assert done.returncode == 0
    assert "warning W16: services.kv: has neither `class` nor a registration" in done.stdout


def test_resolved_is_a_file_that_says_the_same(folder):
    """`--resolved` prints a file with defaults and profile applied that reads the same."""
    file = deployment(
        folder,
        """\
        defaults: {timeout: 2m}
        profiles: {busy: {defaults: {memory_mb: 4Gi}}}
        services: {counter: {class: 'things:Counter', init: {kwargs: {start: 1}}}}
        """,
    )
    done = sage_deploy("validate", file, "--profile", "busy", "--resolved", cwd=folder)
    assert done.returncode == 0, done.stderr
    again = folder / "again.yaml"
    again.write_text(done.stdout)
    assert read(again) == read(file, profile="busy")
    assert read(again).services["counter"].values == {"memory_mb": 4096, "timeout": 120}
    assert "1 service" in done.stderr


# -- classes that are odd ----------------------------------------------------------------------------------------------

ODD = """
import abc


class Abstract(abc.ABC):
    @abc.abstractmethod
    def process(self): ...


class Signature(type):
    @property
    def __signature__(cls):
        raise RuntimeError("no signature")


class Unsigned(metaclass=Signature):
    def process(self): ...


class Raising:
    def __get__(self, instance, owner):
        raise RuntimeError("no descriptor")


class Describing:
    broken = Raising()

    def process(self): ...


class ByPosition:
    def __init__(self, ctx, /): ...


def __getattr__(name):
    if name == "Ending":
        raise SystemExit(3)
    raise RuntimeError("no attribute")
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Abstract", "E703: services.kv.class: 'odd:Abstract' is an abstract class: it does not implement 'process'"),
        ("ByPosition", "needs 'ctx' (add to init: {args: [...]})"),
        ("Ending", "E703: services.kv.class: cannot import 'odd:Ending': SystemExit: 3"),
        ("Missing", "E703: services.kv.class: cannot import 'odd:Missing': RuntimeError: no attribute"),
    ],
)
def test_a_class_that_cannot_be_had_or_made_is_a_problem_at_its_place(tmp_path, name, words):
    """A class that cannot be imported or constructed is a problem with its place."""
    (tmp_path / "odd.py").write_text(ODD)
    file = deployment(tmp_path, f"services: {{kv: {{class: 'odd:{name}'}}}}\n")
    done = sage_deploy("validate", file, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["Unsigned", "Describing"])
def test_a_class_that_hides_its_signature_or_a_name_can_be_deployed(tmp_path, name):
    """A class whose signature or attributes cannot be inspected can be deployed; those checks are skipped."""
    (tmp_path / "odd.py").write_text(ODD)
    file = deployment(tmp_path, f"services: {{kv: {{class: 'odd:{name}'}}}}\n")
    done = sage_deploy("plan", "-v", file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "methods   process\n" in done.stdout


@pytest.mark.parametrize(
    "error", ["BaseException('base')", "GeneratorExit", "BaseExceptionGroup('all', [GeneratorExit()])"]
)
def test_whatever_a_module_raises_is_a_problem(tmp_path, error):
    """Whatever a module raises at import is a problem with its place."""
    (tmp_path / "odd.py").write_text(f"raise {error}\n")
    file = deployment(tmp_path, "services: {kv: {class: 'odd:KV'}}\n")
    done = sage_deploy("validate", file, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{file}:1:24: error E703: services.kv.class: cannot import 'odd:KV'" in done.stderr


# -- what is imported, and from where ----------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["yaml", "attrs", "pluggy"])
def test_without_import_no_module_beside_the_file_is_run(tmp_path, module):
    """With `--no-import` no module next to the file runs, even if it has the name of one that sage-deploy needs."""
    (tmp_path / f"{module}.py").write_text("raise SystemExit('run')\n")
    file = deployment(
        tmp_path, "services: {kv: {class: 'kv:KV', threading_strategy: pool, options: {pool: {idle_timeout: 3s}}}}\n"
    )
    for option in ((), ("--resolved",)):
        done = sage_deploy("validate", file, "--no-import", *option, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_the_working_directory_comes_first_whatever_the_path_says(tmp_path):
    """The working directory comes first in the import path, then the file's folder, whatever PYTHONPATH says."""
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder, text in ((here, "class KV:\n    def here(self): ...\n"), (beside, "class KV: ...\n")):
        folder.mkdir()
        (folder / "stored.py").write_text(text)
    file = deployment(beside, "services: {kv: {class: 'stored:KV'}}\n")
    done = sage_deploy("plan", file, "-v", cwd=here, PYTHONPATH=here)
    assert "methods   here\n" in done.stdout


def test_what_a_module_prints_is_no_data(tmp_path):
    """Output of an imported module goes to stderr, not into the resolved file."""
    (tmp_path / "noisy.py").write_text("print('loading')\nclass KV: ...\n")
    file = deployment(tmp_path, "services: {kv: {class: 'noisy:KV'}}\n")
    done = sage_deploy("validate", file, "--resolved", cwd=tmp_path)
    assert done.stdout.startswith("version:")
    assert "loading" in done.stderr


def test_a_module_that_changes_the_working_directory_changes_no_answer(tmp_path):
    """A module that changes the working directory does not change the result."""
    (tmp_path / "moving.py").write_text("import os\nos.chdir('/')\nclass KV: ...\n")
    deployment(tmp_path, "services: {kv: {class: 'moving:KV'}}\n")
    done = sage_deploy("validate", "service_deployment.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "service_deployment.yaml: 1 service, no warnings\n")
