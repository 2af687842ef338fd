"""
Every bad deployment file gets exactly the expected message, and nothing worse happens.

The files are in tests/deployment_files/bad, each named after the rule that refuses it, with its expected message.
tests/support/deployment_files.py writes further files, and says how to update the expected messages.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import deployment_files
from sage_deploy_files.reading import nodes, reader, syntax
from sage_deploy_files.reading.nodes import MAX_NODES
from sage_plugins.errors import ConfigError

KEPT = deployment_files.names(deployment_files.BAD)
WRITTEN = deployment_files.written()


@pytest.fixture(scope="module")
def expected():
    return deployment_files.expected_refusals()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that are not in the repository."""
    folder = tmp_path_factory.mktemp("written")
    deployment_files.write(folder)
    return folder


def test_there_is_a_message_for_each_file_and_a_file_for_each_message(expected):
    assert sorted(expected) == sorted([*KEPT, *WRITTEN])


@pytest.mark.parametrize("name", KEPT)
def test_the_message_is_the_expected_one_word_for_word(name, expected):
    with deployment_files.surroundings(deployment_files.BAD):
        deployment_files.check_refusal(name, expected[name])


def test_each_of_the_parsers_complaints_that_are_explained_occurs(expected):
    """Each explained parser error occurs in some expected message."""
    messages = "\n".join(expected.values())
    for meaning in syntax._MEANINGS:
        words = re.sub(r"\\\{\w+\\\}", ".+", re.escape(meaning.message)).replace(r"\{\{", r"\{")
        assert re.search(f"not valid YAML: {words}.* \\({re.escape(meaning.fix)}\\)", messages), meaning


def test_no_variable_that_is_called_a_secret_is_shown(expected):
    """No message shows the value of a variable that is named like a secret."""
    assert not [name for name, text in expected.items() if deployment_files.VARIABLES["DB_PASSWORD"] in text]


@pytest.mark.parametrize("name", [name for name in [*KEPT, *WRITTEN] if name.startswith("E108")])
def test_no_more_nodes_are_made_or_walked_than_the_limit(name, folder, monkeypatch):
    """
    The reader creates and walks no more nodes than the limit: aliases and merge keys are counted before they expand.
    """
    made, walked = [], []

    class Counted(nodes.Node):
        def __init__(self, *args, **kwargs):
            made.append(None)
            super().__init__(*args, **kwargs)

    def counted_walk(node, path, key, places):
        before = len(places)
        walk(node, path, key, places)
        walked.append(len(places) - before)

    walk = reader.walk
    monkeypatch.setattr(nodes, "Node", Counted)
    monkeypatch.setattr(reader, "walk", counted_walk)
    with deployment_files.surroundings(deployment_files.BAD if name in KEPT else folder), pytest.raises(ConfigError):
        reader.read(name)
    assert len(made) <= MAX_NODES
    assert sum(walked) <= MAX_NODES


#: Checks the message of each file in its directory, with little memory and time.
PROGRAM = """\
import pathlib
import resource
import sys

sys.path.insert(0, sys.argv[1])
import deployment_files

resource.setrlimit(resource.RLIMIT_AS, (512 * 1024 * 1024,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (150, 150))
expected = deployment_files.expected_refusals()
with deployment_files.surroundings(pathlib.Path()):
    for name in deployment_files.written():
        deployment_files.check_refusal(name, expected[name])
"""


@pytest.mark.timeout(300)
def test_no_file_takes_much_memory_or_time_whatever_it_asks_for(folder):
    """All other files, bombs and devices included, get their messages too, with little memory and in bounded time."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(deployment_files.__file__).parent)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
