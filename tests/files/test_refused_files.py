"""What a deployment file must not contain is refused with its line and column, and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from file_cases import BAD_BODIES, BAD_FILES, service
from sage_deploy_files.reading.entries import file_problem
from sage_deploy_files.reading.nodes import MAX_DEPTH
from sage_deploy_files.reading.reader import FileProblem, read
from sage_plugins.errors import ConfigError
from sage_plugins.values import Problem


class TestBadFiles:
    @pytest.mark.parametrize(("body", "expected"), BAD_BODIES, ids=[repr(body)[:60] for body, _ in BAD_BODIES])
    def test_each_mistake_in_a_service_is_found_at_its_place(self, refused, body, expected):
        """Each mistake in a service is reported with its place and rule."""
        found, _ = refused(service(body))
        assert found == expected

    @pytest.mark.parametrize(("text", "expected"), BAD_FILES, ids=[repr(text[:40]) for text, _ in BAD_FILES])
    def test_each_mistake_in_the_file_is_found_at_its_place(self, refused, text, expected):
        """Each mistake in the file is reported with its place and rule."""
        found, _ = refused(text)
        assert found == expected

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ("thread_cout: 4", "3:5: error E101: services.kv.thread_cout: unknown key 'thread_cout' (did you mean"),
            (
                "performance: {replicas: 4}",
                "performance.replicas: belongs to deployment, not to performance (move it to dep",
            ),
            ("deployment: {methods: {}}", "belongs to the service's own level, not to deployment"),
            ("resources: {cpu_core: 1}", "unknown key 'cpu_core' (did you mean 'cpu_cores'?)"),
            ("resources: {queue_siz: 1}", "(did you mean 'queue_size', which belongs to performance?)"),
            ("resources: {zzz: 1}", "unknown key 'zzz' (keys: cpu_cores, memory_mb, gpu_count)"),
            (
                "zzz: 1",
                "unknown key 'zzz' (keys: class, init, deployment, resources, performance, health, monitoring, and all",
            ),
            ("replicas: 0", "error E103: services.kv.replicas: must be 1 or more, got 0"),
            ("thread_count: '4'", "must be an integer, got '4' (write the number without quotes)"),
            ("load_balancing: no", "must be true or false, got 'no' (write false)"),
            ("timeout: 1\nperformance: {timeout: 2}", "is set a second time, first on line 3"),
            ("timeout: 1\ntimeout: 2", "duplicate key 'timeout', first on line 3"),
            ("a: !!python/object:os.system x", "tag '!!python/object:os.system': tags are not supported (remove it)"),
            ("resources:", "must be a mapping, got null (remove the key if there is nothing to say)"),
            ("class: my.module.Class", "'my.module.Class' is not the path of a class (write package.module:Class)"),
        ],
    )
    def test_the_message_says_what_and_what_to_do(self, refused, body, words):
        """A message says what is wrong and what to do."""
        _, error = refused(service(body))
        assert words in str(error)

    def test_the_message_has_a_line_for_each_problem(self, refused, tmp_path):
        _, error = refused(service("replicas: 0\ntimeout: 0"))
        path = tmp_path / "services.yaml"
        assert str(error) == (
            f"{path} has 2 problems:\n"
            f"  {path}:3:15: error E103: services.kv.replicas: must be 1 or more, got 0\n"
            f"  {path}:4:14: error E103: services.kv.timeout: must be more than 0, got 0 (null means no limit)"
        )
        assert all(isinstance(problem, FileProblem) for problem in error.problems)
        assert error.problems[0].problem == Problem("E103", "replicas", "must be 1 or more, got 0")

    def test_twenty_problems_are_listed_and_the_rest_is_counted(self, refused):
        """The message lists twenty problems, and counts the rest."""
        found, error = refused(service("\n".join(f"unknown_{index}: 1" for index in range(33))))
        assert len(found) == 33
        lines = str(error).splitlines()
        assert len(lines) == 22
        assert lines[-1] == "  and 13 more"

    def test_what_the_file_says_cannot_break_the_line(self, refused):
        """Control characters in a file are escaped in the message, so that they cannot break its lines."""
        _, error = refused(service('"a\\n\\e[31m\\u2028": 1\ntarget: "x\\ny "'))
        assert len(str(error).splitlines()) == 3
        assert "\x1b" not in str(error)

    def test_thousands_of_mistakes_are_reported_in_good_time(self, refused):
        """Thousands of mistakes are all reported in time."""
        found, _ = refused(service("\n".join(f"thread_coun{index}: 1" for index in range(8000))))
        assert len(found) == 8000

    def test_depth_is_allowed_up_to_the_limit(self, load):
        # The root, services, kv and user_config are four levels.
        inner = MAX_DEPTH - 4
        load("services: {kv: {user_config: {a: " + "[" * inner + "]" * inner + "}}}")


class TestFilesThatCannotBeRead:
    """A file that cannot be read is refused with E109 and the reason."""

    def check(self, path, words):
        with pytest.raises(ConfigError) as caught:
            read(path)
        (problem,) = caught.value.problems
        assert (problem.id, problem.line, problem.column) == ("E109", 1, 1)
        assert words in problem.message

    def test_missing(self, tmp_path):
        self.check(tmp_path / "none.yaml", "there is no such file")

    def test_directory(self, tmp_path):
        self.check(tmp_path, "is a directory")

    def test_fifo(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        self.check(tmp_path / "fifo", "is not a regular file")

    def test_device(self):
        self.check("/dev/null", "is not a regular file")

    def test_symlink_loop(self, tmp_path):
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        self.check(tmp_path / "loop", "cannot be read: ")

    def test_name_with_a_nul(self):
        self.check("a\x00b", "is not the name of a file")

    def test_file_as_directory(self, tmp_path):
        (tmp_path / "file").write_text("services: {}")
        self.check(tmp_path / "file" / "x", "cannot be read: ")

    def test_no_descriptor_is_left_open(self, tmp_path):
        before = len(list(Path("/proc/self/fd").iterdir()))
        for path in (tmp_path, tmp_path / "none"):
            for _ in range(20):
                self.check(path, "")
        assert len(list(Path("/proc/self/fd").iterdir())) == before


class TestFileProblem:
    BODY = "deployment:\n  thread_count: 4\noptions: {round_robin: {weight: 3}}\nclass: a:B"

    @pytest.mark.parametrize(
        ("rule", "key", "line", "column"),
        [
            ("E301", "thread_count", 4, 21),
            ("E101", "thread_count", 4, 7),
            ("E103", "options.round_robin.weight", 5, 37),
            ("E101", "options.round_robin.weight", 5, 29),
            ("E107", "options.round_robin.other", 5, 15),
            ("E102", "options.round_robin.weight.0", 5, 37),
            ("E301", "thread_pool_size", 2, 3),
            ("E703", "class", 6, 12),
        ],
    )
    def test_a_problem_gets_the_place_of_the_longest_known_part_of_its_key(self, load, rule, key, line, column):
        """A problem gets the place of the longest part of its key that the file has."""
        entry = attrs.evolve(load(service(self.BODY)).services["kv"], path="f.yaml")
        placed = file_problem(entry, Problem(rule, key, "is wrong", "do it right"))
        assert str(placed) == f"f.yaml:{line}:{column}: error {rule}: services.kv.{key}: is wrong (do it right)"

    def test_a_warning_is_called_one(self, load):
        entry = attrs.evolve(load(service(self.BODY)).services["kv"], path="f.yaml")
        assert str(file_problem(entry, Problem("W05", "cpu_cores", "is advisory"))) == (
            "f.yaml:2:3: warning W05: services.kv.cpu_cores: is advisory"
        )
