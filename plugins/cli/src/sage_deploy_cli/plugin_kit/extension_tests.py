"""Tests the rules of this extension."""

import json

from sage_plugins import Environment


class Echo:
    def echo(self, value):
        return value


def test_file_has_the_status_of_every_service(tmp_path):
    path = tmp_path / "status.json"
    with Environment("watched", options={"example_plugin": {"path": str(path)}}) as env:
        env.register_service("echo", Echo)
        env.deploy()
        assert list(json.loads(path.read_text())["services"]) == ["echo"]
