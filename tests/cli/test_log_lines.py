"""Log lines of services under `sage-deploy up`: on stderr, with time, level and replica."""

from __future__ import annotations

import json
import re
import textwrap

import pytest

from command_line import sage_deploy
from things import deployment


@pytest.fixture
def folder(tmp_path):
    return tmp_path


TALKER = """
    import logging

    class Talker:
        def process(self):
            self.ctx.logger.debug("a detail")
            self.ctx.logger.info("all is %s", "well")
            self.ctx.logger.warning("careful\\n\\x1b[31mwarning other#0: forged")
            self.ctx.logger.warning("%d does not fit", "this")
            logging.getLogger("library").info("chatter")
            logging.getLogger("library").warning("old version")

    class Own(Talker):
        def __init__(self):
            logging.basicConfig(format="OWN %(message)s", level="WARNING")
"""


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug talker#0: a detail", "info talker#0: all is well"]),
        ("INFO", ["info talker#0: all is well"]),
        ("error", []),
    ],
)
def test_what_services_log_is_lines_with_time_level_and_replica(folder, level, shown):
    """Log records of services have time, level and replica. Of other loggers, only warnings and errors are shown."""
    (folder / "talkers.py").write_text(textwrap.dedent(TALKER))
    file = deployment(folder, "services: {talker: {class: 'talkers:Talker'}}\n")
    done = sage_deploy("up", file, "--once", "--log-level", level, cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if re.match(r"\d\d:\d\d:\d\d\.\d{3} ", line)]
    warnings = ["warning talker#0: careful", "warning talker#0 library: old version"]
    assert [line.partition(" ")[2] for line in lines] == shown + (warnings if level != "error" else [])
    assert "\x1b" not in done.stderr
    assert not re.search("^warning other", done.stderr, re.MULTILINE), "no message poses as another"


def test_a_module_that_sets_up_logging_itself_gets_all_of_it(folder):
    """If a module configures logging itself, its format and level apply, and each record is written once."""
    (folder / "talkers.py").write_text(textwrap.dedent(TALKER))
    file = deployment(folder, "services: {talker: {class: 'talkers:Own'}}\n")
    done = sage_deploy("up", file, "--once", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("careful") == 1
    assert "OWN careful" in done.stderr
    assert "OWN old version" in done.stderr


def test_lines_for_programs_are_objects(folder):
    """With `--log-format json`, each record is one JSON object on one line; other output stays text."""
    (folder / "talkers.py").write_text(textwrap.dedent(TALKER))
    file = deployment(folder, "services: {talker: {class: 'talkers:Talker'}}\n")
    done = sage_deploy("up", file, "--once", "--log-format", "json", cwd=folder)
    found = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [(each["level"], each["service"], each["replica"], each["message"]) for each in found] == [
        ("info", "talker", "talker#0", "all is well"),
        ("warning", "talker", "talker#0", "careful\n\x1b[31mwarning other#0: forged"),
        ("warning", "library", "talker#0", "old version"),
    ]
    assert all(each["time"] > 0 and each["request_id"] is None for each in found)
    assert "\x1b" not in done.stderr
