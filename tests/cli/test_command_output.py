"""What every command of `sage-deploy` prints: colours, widths, and text of others that cannot pose as ours."""

from __future__ import annotations

import click
import pytest

from command_line import register, sage_deploy
from terminal import Terminal
from things import deployment

ESCAPE = "\x1b"
UP = """
    services:
      counter:
        class: things:Counter
        init: {args: [41]}
    """


def test_colours_are_for_terminals(folder):
    """Colours appear on a terminal and not in a pipe."""
    arguments = ("up", deployment(folder, UP), "--once")
    with Terminal(*arguments, cwd=folder) as terminal:
        code, shown = terminal.read_to_end()
    assert code == 0
    assert f"{ESCAPE}[32mready" in shown
    assert ESCAPE not in sage_deploy(*arguments, cwd=folder).stdout


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_terminal_without_colours_gets_none(variables, tmp_path):
    """`NO_COLOR` and a dumb terminal turn colours off; `NO_COLOR` wins over `FORCE_COLOR`."""
    with Terminal("doctor", cwd=tmp_path, **variables) as terminal:
        _, shown = terminal.read_to_end()
    assert "ok      Python:" in shown
    assert ESCAPE not in shown


@pytest.mark.parametrize(("value", "coloured"), [("1", True), ("", False)])
def test_colours_can_be_forced_into_a_pipe(value, coloured, tmp_path):
    """A non-empty `FORCE_COLOR` turns colours on in a pipe."""
    done = sage_deploy("doctor", cwd=tmp_path, FORCE_COLOR=value)
    assert (ESCAPE in done.stdout) == coloured
    assert "ok" in done.stdout


def test_colours_add_nothing_to_the_words(tmp_path):
    """Without its colours, coloured output equals plain output."""
    plain = sage_deploy("plugins", "show", "pool", cwd=tmp_path).stdout
    forced = sage_deploy("plugins", "show", "pool", cwd=tmp_path, FORCE_COLOR=1).stdout
    assert forced != plain
    assert click.unstyle(forced) == plain


def test_progress_is_at_the_terminal_while_data_is_piped(folder):
    """With stdout piped, progress goes to the terminal and only data to the pipe."""
    with Terminal("up", deployment(folder, UP), "--once", cwd=folder, piped=True) as terminal:
        data = terminal.process.stdout.read()
        code, shown = terminal.read_to_end()
    assert code == 0
    assert "all ready after" in shown
    assert "counted to 42" not in shown
    assert "counted to 42" in data
    assert "all ready after" not in data
    assert ESCAPE not in data


@pytest.mark.parametrize("columns", [60, 200])
def test_prose_fits_the_terminal(columns, tmp_path):
    """Prose wraps at the terminal's width, 100 characters at most. In a pipe it is not wrapped."""
    with Terminal("explain", "deployment", cwd=tmp_path, columns=columns) as terminal:
        _, shown = terminal.read_to_end()
    prose = [line for line in shown.splitlines() if line.startswith("      ") and ":" not in line]
    assert prose
    assert max(map(len, prose)) <= min(columns, 100)
    assert max(map(len, sage_deploy("explain", "deployment", cwd=tmp_path).stdout.splitlines())) > 100


HOSTILE = "\x1b]0;owned\x07"


def test_control_characters_of_names_and_files_are_escaped(tmp_path):
    """Control characters in arguments are escaped, because a terminal would obey them."""
    for arguments in (["plan", f"{HOSTILE}.yaml"], [HOSTILE], ["explain", HOSTILE], ["plugins", "show", HOSTILE]):
        done = sage_deploy(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert ESCAPE not in done.stdout + done.stderr
        assert r"\x1b]0;owned\x07" in done.stderr


def test_text_of_an_exception_cannot_pose_as_ours(folder):
    """An exception's text is escaped and indented, so that it cannot look like the command's own output."""
    (folder / "bad.py").write_text(
        "class Bad:\n    def __init__(self):\n        raise ValueError('\\x1b[2J\\nall ready after 0.01 s')\n"
    )
    done = sage_deploy("up", deployment(folder, "services: {bad: {class: 'bad:Bad'}}"), "--once", cwd=folder)
    assert done.returncode == 1
    assert ESCAPE not in done.stderr
    assert r"\x1b[2J" in done.stderr
    assert "\nall ready after" not in done.stderr


def test_traceback_of_a_method_is_shown_with_its_text_escaped(folder):
    """A traceback of the user's code is shown with its place, escaped, with exit code 1."""
    (folder / "raising.py").write_text(
        "class Raising:\n    def process(self):\n        raise ValueError('\\x1b]0;owned\\x07')\n"
    )
    file = deployment(folder, "services: {raising: {class: 'raising:Raising'}}")
    done = sage_deploy("up", file, "--once", cwd=folder)
    assert done.returncode == 1
    assert 'raising.py", line 3, in process' in done.stderr
    assert ESCAPE not in done.stderr
    assert r"ValueError: \x1b]0;owned\x07" in done.stderr


def test_result_of_a_service_is_escaped_at_a_terminal_and_untouched_in_a_pipe(folder):
    """A service's result is escaped on a terminal and unchanged in a pipe."""
    (folder / "loud.py").write_text(
        "class Loud:\n    def process(self):\n        return '\\x1b]0;owned\\x07\\ttab\\nline'\n"
    )
    arguments = ("up", deployment(folder, "services: {loud: {class: 'loud:Loud'}}"), "--once")
    assert f"{HOSTILE}\ttab\nline" in sage_deploy(*arguments, cwd=folder).stdout
    with Terminal(*arguments, cwd=folder, NO_COLOR=1) as terminal:
        _, shown = terminal.read_to_end()
    assert ESCAPE not in shown
    assert r"\x1b]0;owned\x07" in shown
    assert "\nline\n" in shown


def test_text_of_a_strangers_plugin_is_escaped(tmp_path):
    """Control characters in a plugin's texts are escaped."""
    (tmp_path / "acme_loud.py").write_text(
        "from sage_plugins import hookimpl\nfrom sage_plugins.values import Registration\n"
        "@hookimpl\ndef sage_register_monitors():\n"
        "    return [Registration('loud', print, 'bright\\x1b[31m\\nFROM nowhere')]\n"
    )
    register(tmp_path, "acme-loud", "1.0", {"acme_loud": "acme_loud"})
    for arguments in (["list"], ["show", "loud"], ["check"]):
        done = sage_deploy("plugins", *arguments, cwd=tmp_path, PYTHONPATH=tmp_path)
        assert ESCAPE not in done.stdout
        assert r"bright\x1b[31m\nFROM nowhere" in done.stdout


def test_encoding_without_a_character_does_not_end_the_command(tmp_path):
    """A character that the output's encoding lacks is escaped instead of ending the command."""
    done = sage_deploy("explain", "中文", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert done.returncode == 2
    assert r"'\u4e2d\u6587'" in done.stderr
