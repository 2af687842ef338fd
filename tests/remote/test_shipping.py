"""
A class runs in a process that does not have its module, with the same behaviour.

Two interpreters take part. The caller is this one, or a script's. The other cannot import from the caller's folders.
"""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from other_process import OtherProcess
from sage_deploy_remote.shipping import versions
from sage_deploy_remote.shipping.modules import gather
from sage_deploy_remote.shipping.specs import pack_spec, unpack_spec
from sage_plugins.errors import DeployError
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Choice
from shipped_project import PROJECT, load, spec_of, write

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPPORT = Path(__file__).parent.parent / "support"


# -- a project's classes ---------------------------------------------------------------------------------------------


def test_a_projects_classes_are_the_same_on_both_sides(project, elsewhere):
    """Arguments, results, errors, functions and enum members keep their types where the project is not installed."""
    points, service = load("shop.points"), load("shop.service")
    point = points.Point(4)
    with OtherProcess(elsewhere) as other:
        other.serve(spec_of(service.Shop, points.Point(0)))
        got = other.call("check", point, points.Colour.RED, points.double, points.ShopError)

        assert got == [point, points.Colour.RED, points.double, points.ShopError]
        assert type(got[0]) is points.Point
        assert got[1] is points.Colour.RED
        with pytest.raises(points.ShopError) as caught:
            other.call("fail", 7)
        assert (caught.value.args, caught.value.code) == (("sold out",), 7)
        assert type(caught.value.__cause__) is points.ShopError


def test_a_module_is_run_there_as_here(project, elsewhere):
    """
    The sent module runs as a module: it has its own locks and caches, can import others, and tracebacks show its code.
    """
    service = load("shop.service")
    with OtherProcess(elsewhere) as other:
        other.serve(spec_of(service.Shop, None))

        assert other.call("late") == ("imported while a method runs", 5)
        assert other.call("where") == (service.__file__, "shop.points")
        with pytest.raises(load("shop.points").ShopError) as caught:
            other.call("fail", 7)
        assert 'raise ShopError("sold out", code)' in "".join(caught.value.__notes__)


def test_a_module_of_a_folder_without_init_is_found(project, elsewhere):
    """A module in a namespace package is found and sent."""
    names = load("spaces.inner.names")
    with OtherProcess(elsewhere) as other:
        other.serve(spec_of(load("shop.service").Shop, None))
        assert type(other.call("run", names.Named)) is names.Named


def test_functions_without_a_name_see_the_projects_classes(project, elsewhere):
    """A lambda in the other process uses the project's own classes."""
    points = load("shop.points")
    with OtherProcess(elsewhere) as other:
        other.serve(spec_of(load("shop.service").Shop, None))
        assert other.call("run", lambda x: points.Point(x + 1), 3) == points.Point(4)


def test_where_the_same_files_lie_they_are_imported_from_there(project, elsewhere):
    """If the same files exist on the other side, they are imported from there, as data may lie next to them."""
    copy = write(elsewhere / "copy", PROJECT)
    with OtherProcess(elsewhere, copy) as other:
        other.serve(spec_of(load("shop.service").Shop, None))
        assert other.call("where") == (str(copy / "shop/service.py"), "shop.points")


def test_where_other_files_lie_the_callers_are_taken(project, elsewhere):
    """If a module of that name exists there with other content, the caller's module is used."""
    old = write(elsewhere / "old", {"shop/__init__.py": "", "shop/service.py": "class Shop: pass", "loose.py": ""})
    with OtherProcess(elsewhere, old) as other:
        other.serve(spec_of(load("shop.service").Shop, None))
        assert other.call("late") == ("imported while a method runs", 5)


def test_a_project_in_an_archive_is_sent(project, elsewhere, monkeypatch):
    """A project imported from a zip archive is sent like one from a folder."""
    archive = shutil.make_archive(str(elsewhere / "project"), "zip", project)
    monkeypatch.setattr(sys, "path", [archive, *(folder for folder in sys.path if folder != str(project))])
    service = load("shop.service")
    assert service.__file__.startswith(archive)
    with OtherProcess(elsewhere) as other:
        other.serve(spec_of(service.Shop, None))
        assert other.call("where") == (service.__file__, "shop.points")


def test_what_came_goes_on(project, elsewhere):
    """A process can send on the modules that it received, although it has no files of them."""
    with OtherProcess(elsewhere) as other:
        other.serve(spec_of(load("shop.service").Shop, None))
        assert other.call("run", gathered_names) >= {"shop", "shop.late", "shop.points", "loose"}


def gathered_names() -> set[str]:
    return set(pickle.loads(zlib.decompress(gather())))  # noqa: S301 - gathered in the line itself


def test_a_changed_file_is_sent_as_it_is_now(project):
    """A module whose file has changed is sent in its new form."""
    load("loose")
    before = gather()
    assert gather() is before
    (project / "loose.py").write_text("NUMBER = 66")
    assert gather() != before


def test_packages_with_modules_in_c_are_not_sent(project):
    """Packages with compiled modules are not sent; pure Python modules next to them are."""
    sources = len(gather())
    write(project, {"fast/__init__.py": "X = 1", f"fast/speed{importlib.machinery.EXTENSION_SUFFIXES[0]}": ""})
    load("fast")
    assert len(gather()) == sources
    load("loose")
    assert len(gather()) != sources


@contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    """Let this user not read *folder*; root reads everything, so it becomes another user."""
    folder.chmod(0o000)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o700)


def test_folder_of_a_package_that_this_user_may_not_read_is_left_out(monkeypatch):
    """A package is sent even if it has a folder that this user may not read, such as that of a database."""
    gather()  # reads what another user may not read
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        write(folder, {"bakery/__init__.py": "", "bakery/bread.py": "X = 1", "bakery/data/__init__.py": "X = 1"})
        monkeypatch.syspath_prepend(temporary)
        load("bakery")
        with unreadable(folder / "bakery" / "data"):
            names = gathered_names()
        del sys.modules["bakery"]
    assert {name for name in names if name.startswith("bakery")} == {"bakery", "bakery.bread"}


def test_a_plugin_that_a_test_defines_travels(elsewhere):
    """A plugin defined in a test is sent by value, because the other process cannot import this module."""

    class Local:
        def name(self):
            return "local"

    with OtherProcess(elsewhere) as other:
        other.serve(spec_of(Local))
        assert other.call("name") == "local"


def test_installed_plugins_go_by_name():
    """Installed plugins are sent by name, also editable installs: they are the same wherever replicas run."""
    found = Registry.discover().find("threading strategy", "single")
    strategy = Choice(found.registration, None, found.plugin)
    data = pack_spec(spec_of(dict, strategy=strategy))
    assert unpack_spec(data).strategy.registration.create is strategy.registration.create
    assert not [name for name in gathered_names() if name.startswith(("sage_plugins", "sage_deploy_"))]


def test_what_an_older_process_has_deployed_is_not_read(monkeypatch):
    """A spec packed by another protocol version is refused with DeployError that names the version."""
    with monkeypatch.context() as patch:
        patch.setattr(versions, "NUMBER", versions.NUMBER + 1)
        packed = pack_spec(spec_of(OtherProcess))
    with pytest.raises(DeployError, match=rf"replicas of service 'svc' .* speaks protocol {versions.NUMBER + 1}, "):
        unpack_spec(packed)


def test_a_spec_arrives_as_it_was():
    """A spec arrives unchanged; its factory builds the service, and its strategy works."""
    spec = spec_of(dict, [("a", 1)], b=2)
    got = unpack_spec(pack_spec(spec))

    assert got._replace(factory=None, strategy=None) == spec._replace(factory=None, strategy=None)
    assert got.factory.create_service(None) == {"a": 1, "b": 2}
    assert got.strategy.create() is None


def test_a_class_that_comes_home_is_left_as_it_was():
    """A local class that is unpacked in its own process is the same object and unchanged."""

    class Local:
        kept: list[int] = []  # noqa: RUF012 - all instances share it

    kept = Local.kept
    assert unpack_spec(pack_spec(spec_of(Local))).factory.service_class is Local
    assert Local.kept is kept


# -- a script's classes ----------------------------------------------------------------------------------------------


SCRIPT = """
    import enum
    import sys
    from dataclasses import dataclass

    from other_process import OtherProcess
    from shipped_project import spec_of

    FACTOR = 2

    @dataclass
    class Point:
        x: int
        def times(self):
            return Point(self.x * FACTOR)

    class Colour(enum.Enum):
        RED = 1

    class ScriptError(Exception):
        def __init__(self, text, code):
            super().__init__(text)
            self.code = code

    def double(point):
        return point.times()

    class Service:
        name = "that of the script"

        def check(self, point, function, cls):
            assert isinstance(point, Point), type(point)
            assert cls is ScriptError
            return [function(point), Point(1), Colour.RED, function, cls, self.name]

        def echo(self, *values):
            return values

        def fail(self):
            raise ScriptError("sold out", 7)

    methods = dict(vars(Point))
    with OtherProcess(sys.argv[1]) as other:
        other.serve(spec_of(Service))
        for _ in range(2):
            got = other.call("check", Point(4), double, ScriptError)
            assert got == [Point(8), Point(1), Colour.RED, double, ScriptError, "that of the script"], got
            assert type(got[0]) is type(got[1]) is Point
            assert got[2] is Colour.RED
            assert got[3] is double
        try:
            other.call("fail")
        except ScriptError as error:
            assert (error.args, error.code) == (("sold out",), 7)

        # What is defined after the service was deployed, as in a notebook's next cell.
        @dataclass
        class Later:
            point: Point
        (got,) = other.call("echo", Later(Point(1)))
        assert got == Later(Point(1)) and type(got.point) is Point

        # A class that is defined again is another one.
        First = Point
        @dataclass
        class Point:
            y: int
        got = other.call("echo", First(1), Point(2))
        assert [type(each) for each in got] == [First, Point]

        FACTOR = 3
        assert First.__dict__["times"] is methods["times"]
    print("well")
"""


def run_script(folder: Path, text: str, *arguments: Any) -> str:
    """Run a script that can import what the tests import; return its output."""
    (script,) = (write(folder, {"script.py": text}) / "script.py",)
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (SUPPORT, Path(__file__).parent)))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_scripts_classes_are_the_same_on_both_sides(tmp_path, elsewhere):
    """A script's classes from `__main__` are the same on both sides, although `__main__` there is another module."""
    assert run_script(tmp_path, SCRIPT, elsewhere) == "well\n"
