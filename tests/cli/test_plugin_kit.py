"""`init --plugin` writes a working plugin, and `plugins check` runs a plugin's test suite."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
import yaml

from command_line import ROOT, sage_deploy
from sage_deploy_cli.commands.init import plugin_files

KINDS = ("target", "strategy", "balancer", "monitor", "autoscaler", "extension")


@pytest.fixture
def made(tmp_path):
    """The folder of a plugin of some kind, as `init --plugin` writes it."""

    def make(kind, name):
        done = sage_deploy("init", "--plugin", kind, name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_templates_is_left(kind):
    """The written files have the plugin's names, no rest of the template, and valid syntax."""
    files = plugin_files(kind, "acme-turbo-2")
    assert set(files) == {
        "pyproject.toml",
        "README.md",
        "acme_turbo_2.py",
        "test_acme_turbo_2.py",
        ".github/workflows/test.yml",
        ".gitignore",
    }
    for path, text in files.items():
        assert "xample" not in text, path
        assert not {"KIND", "USE", "SUITE"} & set(text.split()), path
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["entry-points"]["sage_deploy"] == {"acme_turbo_2": "acme_turbo_2"}
    assert yaml.safe_load(files[".github/workflows/test.yml"])["jobs"]
    assert "class AcmeTurbo2" in files["acme_turbo_2.py"]
    ast.parse(files["test_acme_turbo_2.py"])


@pytest.mark.parametrize("kind", KINDS)
def test_readme_shows_a_deployment_that_names_the_plugin(kind, made, tmp_path):
    """`validate` accepts the deployment file in the README once the plugin is installed."""
    folder = made(kind, "acme-turbo")
    text = (folder / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    if kind == "extension":
        assert yaml.safe_load(text) == {"options": {"acme_turbo": {"path": "status.json"}}}
        text += "services:\n  my_service: {class: my_module:MyClass}\n"
    (tmp_path / "shown.yaml").write_text(text)
    (tmp_path / "my_module.py").write_text("class MyClass:\n    def echo(self, value):\n        return value\n")
    info = tmp_path / "acme_turbo-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-turbo\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[sage_deploy]\nacme_turbo = acme_turbo\n")
    done = sage_deploy("validate", "shown.yaml", cwd=tmp_path, PYTHONPATH=f"{tmp_path}:{folder}")
    assert (done.returncode, done.stdout) == (0, "shown.yaml: 1 service, no warnings\n"), done.stderr


@pytest.mark.parametrize("name", ["Acme", "acme_turbo", "1acme", "acme--turbo", "acme-", "a/b"])
def test_name_that_no_distribution_and_id_can_have_is_refused(name, tmp_path):
    """A name that cannot be both a distribution and an ID is refused, and nothing is written."""
    done = sage_deploy("init", "--plugin", "monitor", name, cwd=tmp_path)
    assert done.returncode == 2
    assert f"'{name}' cannot be the name of a plugin: use small letters, digits and hyphens" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ([], "the plugin needs a name: sage-deploy init --plugin monitor acme-monitor"),
        (["json"], "'json' is a name of Python's own: choose another, such as acme-json"),
        (["class"], "'class' is a name of Python's own: choose another, such as acme-class"),
    ],
)
def test_missing_name_and_names_of_python_are_refused(name, message, tmp_path):
    """Without a name, or with one of Python's own, nothing is written, and the error says what to do."""
    done = sage_deploy("init", "--plugin", "monitor", *name, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_file_of_a_plugin_is_overwritten(made, tmp_path):
    """Changed files of a plugin stay, unless `--force` is given."""
    folder = made("autoscaler", "acme-turbo")
    (folder / "README.md").write_text("mine")
    done = sage_deploy("init", "--plugin", "autoscaler", "acme-turbo", cwd=tmp_path)
    assert done.returncode == 2
    assert (folder / "README.md").read_text() == "mine"
    assert sage_deploy("init", "--plugin", "autoscaler", "acme-turbo", "--force", cwd=tmp_path).returncode == 0
    assert (folder / "README.md").read_text().startswith("# acme-turbo")


def test_check_runs_the_suite_of_a_folder_that_is_not_installed(made, tmp_path):
    """
    The check works on a folder that is not installed, also from its parent, where folder and distribution share a name.
    """
    folder = made("monitor", "acme-turbo")
    done = sage_deploy("plugins", "check", "acme-turbo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 plugin, 1 ID: all in order" in done.stdout
    assert " passed" in done.stdout
    module = folder / "acme_turbo.py"
    module.write_text(module.read_text().replace("total.update(each)", "total = Counter(each)"))
    done = sage_deploy("plugins", "check", "acme-turbo", cwd=tmp_path)
    assert done.returncode == 1
    assert " failed" in done.stdout


def test_check_of_a_folder_without_the_suites_says_what_to_install(made, tmp_path):
    """Without sage-deploy-testing, the check of a folder says in one line what to install."""
    made("balancer", "acme-turbo")
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['sage_deploy_testing'] = None\n")
    done = sage_deploy("plugins", "check", "acme-turbo", cwd=tmp_path, PYTHONPATH=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith("Error: the suites are in sage-deploy-testing: pip install 'sage-deploy[testing]'\n")


def test_check_says_what_breaks_the_contract_before_any_suite(made, tmp_path):
    """A plugin that does not load is reported; its suite does not run."""
    folder = made("balancer", "acme-turbo")
    module = folder / "acme_turbo.py"
    module.write_text(module.read_text().replace("import attrs\n", "import attrs\nimport acme_drivers\n", 1))
    done = sage_deploy("plugins", "check", "acme-turbo", cwd=tmp_path)
    assert done.returncode == 1
    assert "plugin 'acme_turbo' does not load: ModuleNotFoundError: No module named 'acme_drivers'" in done.stdout
    assert "passed" not in done.stdout


def test_check_of_an_id_runs_its_suite_alone(tmp_path):
    """Checking an ID runs the suite for that ID only."""
    done = sage_deploy("plugins", "check", "health", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "13 passed" in done.stdout


def test_check_without_a_suite_says_so(made, tmp_path):
    """If there is no suite for a plugin's kind, the check says so."""
    made("extension", "acme-turbo")
    done = sage_deploy("plugins", "check", "acme-turbo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "extension acme_turbo: there is no suite for this kind" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["round_robbin"], "no folder, distribution, plugin or ID is called 'round_robbin'"),
        (["."], "holds no plugin of sage-deploy (it needs a pyproject.toml with [project.entry-points.sage_deploy]"),
        (["random", "--json"], "--json shows the contract only, not the suites"),
    ],
)
def test_check_of_what_is_no_plugin_says_what_to_do(arguments, fault, tmp_path):
    """Checking something that is no plugin says what to do."""
    done = sage_deploy("plugins", "check", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert fault in done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A Python environment with pytest and the wheels of this checkout that plugins need."""
    folder = tmp_path_factory.mktemp("kit")
    venv.create(folder / "venv", with_pip=False)
    python = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder / "venv")})) / "python"
    ours = [ROOT, *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
    projects = [path if path is ROOT else path.parent for path in ours if path.parent.name not in {"ray", "sage"}]
    pip(folder, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, *projects)
    pip(folder, "--python", python, "install", *folder.glob("*.whl"))
    return python


def pip(cwd, *arguments):
    run(cwd, sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def run(cwd, *command):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.xdist_group("plugin_kit")
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_builds_installs_and_passes_as_it_is(kind, environment, tmp_path):
    """Each kind works unchanged for its author: init, build, install the wheel, run the tests, check."""
    name = f"acme-{kind}"
    scripts = environment.parent
    run(tmp_path, scripts / "sage-deploy", "init", "--plugin", kind, name)
    pip(tmp_path, "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", tmp_path / name)
    pip(tmp_path, "--python", environment, "install", *tmp_path.glob("dist/*.whl"))
    (tmp_path / "elsewhere").mkdir()  # here the wheel's module is imported, not the folder's
    shutil.copy(tmp_path / name / f"test_acme_{kind}.py", tmp_path / "elsewhere")
    assert " passed" in run(tmp_path / "elsewhere", environment, "-m", "pytest", "-q")
    assert "all in order" in run(tmp_path / "elsewhere", scripts / "sage-deploy", "plugins", "check", name)
