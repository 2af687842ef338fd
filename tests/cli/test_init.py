"""`sage-deploy init` writes files that run unchanged, and overwrites nothing without `--force`."""

from __future__ import annotations

import json
import zipfile

import jsonschema
import pytest
import yaml

from command_line import ROOT, sage_deploy
from sage_deploy_cli.commands.init import starter_files

FILES = ["sample_1.txt", "sample_2.txt", "service_deployment.schema.json", "service_deployment.yaml", "services.py"]


def content(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


@pytest.mark.wheels
def test_what_it_writes_runs_without_a_change(tmp_path):
    """The written files work unchanged: plan without a warning, then up with a report."""
    (tmp_path / "one.txt").write_text("the same")
    (tmp_path / "two.txt").write_text("the same")
    (tmp_path / "three.txt").write_text("differs!")
    done = sage_deploy("init", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sage-deploy plan service_deployment.yaml" in done.stdout

    planned = sage_deploy("plan", "service_deployment.yaml", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "Plan: 2 services, 2 replicas to start." in planned.stdout
    assert "warning" not in planned.stdout

    ran = sage_deploy("up", "service_deployment.yaml", "--once", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "2 groups of equal files" in ran.stdout
    assert "  sample_1.txt\n  sample_2.txt\n" in ran.stdout, "in an empty folder, too"
    assert "  one.txt\n  two.txt\n" in ran.stdout
    assert "three.txt" not in ran.stdout


def test_its_profile_runs_too(tmp_path):
    """The profile in the written file runs too."""
    sage_deploy("init", "demo", cwd=tmp_path)
    done = sage_deploy("up", "demo/service_deployment.yaml", "--once", "--profile", "busy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stdout


def test_folder_is_made_and_the_next_commands_go_there(tmp_path):
    """`init` creates the folder, and prints the `cd` command to it."""
    done = sage_deploy("init", "new folder/inside", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(content(tmp_path / "new folder" / "inside")) == FILES
    assert "  cd 'new folder/inside'\n" in done.stdout


def test_first_line_names_the_schema():
    """The file's first line names its schema, so that editors complete and check it."""
    first = starter_files()["service_deployment.yaml"].splitlines()[0]
    assert first == "# yaml-language-server: $schema=service_deployment.schema.json"


def test_comments_name_commands_and_fields_that_exist(tmp_path):
    """Every command in the file's comments works, and the profile that they name exists."""
    sage_deploy("init", cwd=tmp_path)
    text = starter_files()["service_deployment.yaml"]
    commands = [line.removeprefix("#").split("  ")[2].split()[1:] for line in text.splitlines() if "#     sage" in line]
    assert len(commands) == 4
    for command in commands:
        if command[0] == "up" and "--once" not in command:
            continue
        done = sage_deploy(*command, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert list(yaml.safe_load(text)["profiles"]) == ["busy"]


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten_and_nothing_else_written(name, tmp_path):
    """If one of the files exists, nothing is written, and the message names it and `--force`."""
    (tmp_path / name).write_text("mine")
    done = sage_deploy("init", cwd=tmp_path)
    assert done.returncode == 2
    assert content(tmp_path) == {name: "mine"}
    assert f"already there: {name} " in done.stderr
    assert "--force" in done.stderr


def test_every_file_in_the_way_is_named(tmp_path):
    """
    Every existing file is named. A link counts too, because writing through it would change another folder's file.
    """
    (tmp_path / "services.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / "service_deployment.yaml").write_text("mine")
    done = sage_deploy("init", cwd=tmp_path)
    assert done.returncode == 2
    assert "service_deployment.yaml, services.py" in done.stderr
    assert not (tmp_path / "nowhere.py").exists()


def test_force_overwrites_the_files_of_these_names_alone(tmp_path):
    """`--force` overwrites only the files that `init` writes."""
    for name in (*FILES, "other.py"):
        (tmp_path / name).write_text("mine")
    done = sage_deploy("init", "--force", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path) == starter_files() | {"other.py": "mine"}


def test_force_does_not_replace_a_folder(tmp_path):
    """`--force` does not replace a folder of that name."""
    (tmp_path / "services.py").mkdir()
    done = sage_deploy("init", "--force", cwd=tmp_path)
    assert done.returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["services.py"]


def test_folder_that_cannot_be_made_is_a_failure_in_words(tmp_path):
    """If the folder cannot be created, the command exits with 1 and the reason."""
    (tmp_path / "file").write_text("")
    done = sage_deploy("init", "file/inside", cwd=tmp_path)
    assert done.returncode == 1
    assert "file/inside cannot be written to: Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_wheel_holds_the_files(tmp_path):
    """The wheel contains all files that `init` writes."""
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(ROOT / "plugins" / "cli")).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        texts = {name: text for name, text in starter_files().items() if name != FILES[2]}  # that is generated
        for name, text in texts.items():
            assert archive.read(f"sage_deploy_cli/starter/{name}").decode() == text


def test_schema_that_it_writes_takes_the_file_beside_it(tmp_path):
    """The written schema accepts the written file, finds a mistake in it, and is named in its first line."""
    assert sage_deploy("init", cwd=tmp_path).returncode == 0
    schema = json.loads((tmp_path / FILES[2]).read_text(encoding="utf-8"))
    text = (tmp_path / FILES[3]).read_text(encoding="utf-8")
    assert text.startswith(f"# yaml-language-server: $schema={FILES[2]}\n")
    content = yaml.safe_load(text)
    jsonschema.validate(content, schema)
    content["services"]["duplicates"]["deployment"]["thread_cout"] = 4
    with pytest.raises(jsonschema.ValidationError, match="thread_cout"):
        jsonschema.validate(content, schema)
