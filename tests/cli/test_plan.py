"""`sage-deploy plan` as a user runs it. `up` reports the same problems of a file."""

from __future__ import annotations

import json

import pytest

from command_line import sage_deploy
from sage_deploy_cli.show_plan import show_plan
from sage_plugins import Environment
from things import deployment, write_things


class Wide:
    def process(self):
        return 1


@pytest.fixture
def folder(tmp_path):
    return write_things(tmp_path)


def test_plan_starts_nothing(folder):
    """`plan` imports the class and shows which plugin decides what, but runs no constructor."""
    file = deployment(folder, "services: {failing: {class: 'things:Failing'}}\n")
    done = sage_deploy("plan", "-v", file, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "sage-deploy-local" in done.stdout
    assert "sage-deploy-threading" in done.stdout
    assert "Plan: 1 service, 1 replica to start." in done.stdout


def test_plan_is_a_line_for_each_service_and_the_rest_with_v(folder):
    """The short plan has one line per service with its warnings below; `-v` shows the rest."""
    file = deployment(
        folder,
        """\
        services:
          keeper: {class: 'things:Keeper', memory_mb: 1Gi}
          counter: {class: 'things:Counter', init: {args: [1]}, replicas: 2, load_balancing: true}
        """,
    )
    short, long = (sage_deploy("plan", file, *options, cwd=folder).stdout for options in ((), ("-v",)))
    first, warning, second, blank, total = short.splitlines()
    assert first == "+ keeper: local, single, 1 replica -> this process"
    assert warning.startswith(f"    ! {file}:2:47: warning W05: services.keeper.memory_mb: ")
    assert second == "+ counter: local, single, 2 replicas -> this process, balanced by least_loaded"
    assert (blank, total) == ("", "Plan: 2 services, 3 replicas to start.")
    for words in ("[sage-deploy-local ", "    queue ", "    settings ", warning.strip(), total):
        assert words in long


@pytest.mark.parametrize("options", [(), ("-v",), ("--all",)])
def test_at_a_terminal_every_line_fits(options, monkeypatch, capsys):
    """On a terminal, no line is longer than 100 characters, however wide the terminal is."""
    monkeypatch.setattr("sage_deploy_cli.output._at_terminal", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    with Environment("wide") as env:
        env.register_service("kv", Wide)
        show_plan(env.plan(), verbose="-v" in options, all_settings="--all" in options)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert any("Plan: 1 service" in line for line in lines)


def test_plan_as_json_is_for_programs(folder):
    """`plan --json` prints the services and decisions for programs."""
    file = deployment(
        folder, "services: {failing: {class: 'things:Failing', deployment: {threading_strategy: inline}}}\n"
    )
    done = sage_deploy("plan", file, "--json", cwd=folder)
    (service,) = json.loads(done.stdout)["services"]
    assert service["name"] == "failing"
    assert [decision["id"] for decision in service["decisions"]][:2] == ["local", "inline"]


def test_bad_file_is_answered_with_every_place(folder):
    """For a bad file, `up` exits with 2 and one line per problem, with file, line and column."""
    file = deployment(
        folder,
        """\
        services:
          kv:
            class: things:Keeper
            deployment:
              thread_cout: 2
              replicas: none
        """,
    )
    done = sage_deploy("up", file, cwd=folder)
    assert done.returncode == 2
    assert f"{file}:5:7: error E101" in done.stderr
    assert "thread_count" in done.stderr
    assert f"{file}:6:17: error E102" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_plugin_refuses_has_its_place_too(folder):
    """A problem that a plugin finds also has its line and column."""
    file = deployment(
        folder,
        """\
        services:
          kv:
            class: things:Keeper
            deployment:
              thread_count: 4
        """,
    )
    done = sage_deploy("plan", file, cwd=folder)
    assert done.returncode == 2
    assert f"{file}:5:21: error E301" in done.stderr


def test_unknown_id_and_class_are_bad_input(folder):
    """An unknown class or plugin ID exits with 2; a disabled plugin is named with the variable to change."""
    file = deployment(folder, "services: {kv: {class: 'things:Nobody'}}\n")
    done = sage_deploy("plan", file, cwd=folder)
    assert done.returncode == 2
    assert "E703" in done.stderr
    assert "Nobody" in done.stderr
    file = deployment(folder, "services: {kv: {class: 'things:Keeper', target: remote_any}}\n")
    done = sage_deploy("plan", file, cwd=folder, SAGE_DEPLOY_DISABLED_PLUGINS="ray")
    assert done.returncode == 2
    assert "unknown target 'remote_any'" in done.stderr
    assert "sage-deploy-ray is installed, but disabled: change SAGE_DEPLOY_DISABLED_PLUGINS" in done.stderr


# -- differences, plan files -------------------------------------------------------------------------------------------


def test_exit_code_tells_whether_there_are_changes_only_if_asked(folder):
    """`--detailed-exitcode` exits with 3 if there are changes; without it the exit code is 0."""
    file = deployment(folder, "services: {keeper: {class: 'things:Keeper'}}\n")
    assert sage_deploy("plan", file, cwd=folder).returncode == 0
    assert sage_deploy("plan", file, "--detailed-exitcode", cwd=folder).returncode == 3
    empty = deployment(folder, "services: {}\n")
    assert sage_deploy("plan", empty, "--detailed-exitcode", cwd=folder).returncode == 0


def test_plan_is_the_difference_from_what_another_process_runs(folder, running_up):
    """The plan shows the difference to what another process runs with that file, as long as that process lives."""
    file = deployment(folder, "services: {keeper: {class: 'things:Keeper'}, old: {class: 'things:Keeper'}}\n")
    process = running_up(file)
    done = sage_deploy("plan", file, "--detailed-exitcode", cwd=folder)
    assert (done.returncode, "Plan: nothing to do, 2 services as configured." in done.stdout) == (0, True)
    assert f"process {process.pid} runs {file} already" in done.stderr
    deployment(folder, "services: {keeper: {class: 'things:Keeper', timeout: 5}, new: {class: 'things:Keeper'}}\n")
    done = sage_deploy("plan", file, "--detailed-exitcode", cwd=folder)
    assert done.returncode == 3
    assert [line for line in done.stdout.splitlines() if line[:1] in {"+", "~", "-"}] == [
        "~ keeper: local, single, 1 replica -> this process",
        "+ new: local, single, 1 replica -> this process",
        "- old: runs, and is not configured any more",
    ]
    assert "    ~ timeout: 30 -> 5" in done.stdout
    assert done.stdout.endswith("Plan: 1 to start, 1 to change, 1 to stop, 0 unchanged.\n")
    process.kill()
    process.wait()
    assert "Plan: 2 services, 2 replicas to start." in sage_deploy("plan", file, cwd=folder).stdout


def test_all_shows_the_defaults_too(folder):
    """`--all` also shows the settings that have their defaults."""
    file = deployment(folder, "services: {keeper: {class: 'things:Keeper'}}\n")
    assert "queue_size" not in sage_deploy("plan", file, cwd=folder).stdout
    assert "queue_size " in sage_deploy("plan", file, "--all", cwd=folder).stdout


def test_a_saved_plan_is_executed_or_refused_as_stale(folder):
    """`up` runs a saved plan from any directory, and refuses it as stale if the file has changed."""
    file = deployment(folder, "services: {counter: {class: 'things:Counter', init: {args: [41]}}}\n")
    saved = folder / "first.plan"
    done = sage_deploy("plan", file, "--out", saved, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"sage-deploy up {saved}" in done.stderr
    done = sage_deploy("up", saved, "--once", cwd="/")
    assert done.returncode == 0, done.stderr
    assert "counted to 42" in done.stdout
    deployment(folder, "services: {counter: {class: 'things:Counter', init: {args: [1]}}}\n")
    done = sage_deploy("up", saved, "--once", cwd="/")
    assert done.returncode == 2
    assert f"{saved}:1:1: error E805: services.counter.init.args.0: the plan is stale" in done.stderr
    assert "counted" not in done.stdout


def test_a_saved_plan_has_chosen_its_profile(folder):
    """A saved plan contains its profile; `--profile` together with it is refused."""
    file = deployment(
        folder,
        """\
        profiles: {late: {services: {counter: {init: {args: [7]}}}}}
        services: {counter: {class: 'things:Counter'}}
        """,
    )
    saved = folder / "late.plan"
    assert sage_deploy("plan", file, "--profile", "late", "--out", saved, cwd=folder).returncode == 0
    assert "counted to 8" in sage_deploy("up", saved, "--once", cwd=folder).stdout
    done = sage_deploy("up", saved, "--once", "--profile", "late", cwd=folder)
    assert done.returncode == 2
    assert "the plan has chosen its profile already" in done.stderr


def test_a_plan_of_what_another_process_runs_is_for_that_process(folder, running_up):
    """A plan made against a running process can only be used in that process."""
    file = deployment(folder, "services: {keeper: {class: 'things:Keeper'}}\n")
    process = running_up(file)
    deployment(folder, "services: {keeper: {class: 'things:Keeper', timeout: 5}}\n")
    saved = folder / "change.plan"
    assert sage_deploy("plan", file, "--out", saved, cwd=folder).returncode == 0
    done = sage_deploy("up", saved, "--once", cwd=folder)
    assert done.returncode == 1
    assert f"the plan is of what process {process.pid} runs" in done.stderr


def test_a_plan_file_where_none_can_be_written_is_a_failure_with_its_reason(folder):
    """If the plan file cannot be written, the command exits with 1 and the reason."""
    file = deployment(folder, "services: {}\n")
    done = sage_deploy("plan", file, "--out", folder / "nowhere" / "x.plan", cwd=folder)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr


# -- secrets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("plan",), ("plan", "--json", "--all"), ("validate",), ("up", "--once")])
def test_no_command_shows_a_secret(folder, command):
    """No command shows the value of a secret."""
    file = deployment(
        folder,
        """\
        services:
          counter:
            class: things:Counter
            init: {kwargs: {start: 1}}
            user_config: {db_password: canary-bird, deep: [{api_key: canary-bird}]}
            options: {events: {size: 5}}
        """,
    )
    done = sage_deploy(*command[:1], file, *command[1:], cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_what_a_module_prints_is_not_in_the_json(folder):
    """Output of an imported module goes to stderr, so that stdout is valid JSON."""
    (folder / "noisy.py").write_text("print('loading')\nclass KV: ...\n")
    file = deployment(folder, "services: {kv: {class: 'noisy:KV'}}\n")
    done = sage_deploy("plan", file, "--json", cwd=folder)
    assert json.loads(done.stdout)["services"][0]["name"] == "kv"
    assert "loading" in done.stderr


@pytest.mark.parametrize("name", ["service_deployment.yaml", "./service_deployment.yaml", "link.yaml"])
def test_a_plan_is_never_written_over_its_own_deployment_file(folder, name):
    """`--out` refuses the deployment file itself, under every name."""
    text = "services: {keeper: {class: 'things:Keeper'}}\n"
    file = deployment(folder, text)
    (folder / "link.yaml").symlink_to(file)
    done = sage_deploy("plan", file, "--out", name, cwd=folder)
    assert done.returncode == 2
    assert "--out: names the deployment file itself" in done.stderr
    assert file.read_text() == text
