"""The classes of examples/stdlib_search as plain objects, with handles that call them directly."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "stdlib_search"
sys.path.insert(0, str(EXAMPLE))  # as `sage-deploy up` does with the folder of the YAML file

from job import Demo, Progress  # noqa: E402  # the path must be set first
from stdlib_search.bm25 import Bm25, tokens  # noqa: E402
from stdlib_search.documents import Document  # noqa: E402
from stdlib_search.index import DocIndex  # noqa: E402
from stdlib_search.reader import DocReader  # noqa: E402
from stdlib_search.search import Search  # noqa: E402
from stdlib_search.store import DocStore, Version  # noqa: E402

from sage_plugins import Environment  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 20  # the bound for things that should end at once


class DirectHandle:
    """A handle that calls the object that its service has at that moment."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    def __getattr__(self, method: str) -> Any:
        return getattr(self._find(), method)

    def submit(self, method: str, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(getattr(self._find(), method)(*args))
        except Exception as error:  # noqa: BLE001 - every error belongs to the caller
            future.set_exception(error)
        return future


class DirectContext:
    """A `ctx` over plain objects. `services` can be changed at any time."""

    def __init__(self, **services: Any) -> None:
        self.services = services

    def service(self, name: str) -> DirectHandle:
        return DirectHandle(lambda: self.services[name])


def document(name: str, text: str = "") -> Document:
    return Document(name, "function", f"{name}()", text.partition(".")[0], text)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small standard library. Importing its `queue` would end the interpreter."""
    (tmp_path / "queue.py").write_text(
        '''"""Queues of many kinds.

More about them."""
raise SystemExit

class Queue:
    """A queue that
    blocks. It is bounded."""
    def __init__(self, maxsize=0, *, name: str = "q"): ...
    def put(self, item, block=True):
        """Put an item."""
    def _hidden(self):
        """Nobody's business."""
    def undocumented(self): ...

if True:
    async def drain(queue):
        """Empty *queue*."""
        def inner():
            """Not reachable."""
else:
    def drain(queue):
        """The other one."""
'''
    )
    (tmp_path / "decimal.py").write_text("from _decimal import *")
    (tmp_path / "_pydecimal.py").write_text('class Decimal:\n    """Exact numbers."""')
    (tmp_path / "json" / "test").mkdir(parents=True)
    (tmp_path / "json" / "__init__.py").write_text('"""Encode and decode."""')
    (tmp_path / "json" / "encoder.py").write_text('def encode(o):\n    """Encode *o*."""')
    (tmp_path / "json" / "_private.py").write_text('"""Private."""')
    (tmp_path / "json" / "test" / "case.py").write_text('"""A test."""')
    (tmp_path / "not_in_the_library.py").write_text('"""Somebody else\'s."""')
    return tmp_path


def test_reader_lists_the_public_modules_of_the_library(tree: Path) -> None:
    """The reader leaves out private modules, tests, and modules outside the standard library."""
    assert DocReader(str(tree)).modules() == ["decimal", "json", "json.encoder", "queue"]


def test_reader_finds_what_is_public_and_documented(tree: Path) -> None:
    """
    The reader finds documented public modules, classes, methods and functions, also under `if`.

    Of several definitions of a name, the first counts.
    """
    assert [
        (found.name, found.kind, found.signature, found.summary) for found in DocReader(str(tree)).read("queue")
    ] == [
        ("queue", "module", "", "Queues of many kinds."),
        ("queue.Queue", "class", "Queue(maxsize=0, *, name: str='q')", "A queue that blocks."),
        ("queue.Queue.put", "method", "put(self, item, block=True)", "Put an item."),
        ("queue.drain", "function", "drain(queue)", "Empty *queue*."),
    ]


def test_reader_finds_the_python_twin_of_a_module_in_c(tree: Path) -> None:
    """The reader takes the docstrings of `decimal` from `_pydecimal`."""
    assert [found.name for found in DocReader(str(tree)).read("decimal")] == ["decimal.Decimal"]


def test_reader_refuses_unknown_modules(tree: Path) -> None:
    """The reader refuses names that are not modules of the library, including paths out of it."""
    for name in ("not_in_the_library", "../queue", "json._private"):
        with pytest.raises(LookupError, match=re.escape(name)):
            DocReader(str(tree)).read(name)


def test_reader_refuses_a_folder_without_sources(tmp_path: Path) -> None:
    """A Python without library sources is an error at the start, not an empty index."""
    with pytest.raises(FileNotFoundError, match="root="):
        DocReader(str(tmp_path))


def test_reading_imports_nothing() -> None:
    """The reader reads modules without importing them."""
    names = ["asyncio.tasks", "smtplib", "tkinter.ttk", "turtle", "xmlrpc.server"]
    code = (
        f"import sys; sys.path.insert(0, {str(EXAMPLE)!r})\n"
        "from stdlib_search.reader import DocReader\n"
        f"reader = DocReader(); print(*[len(reader.read(name)) for name in {names}])\n"
        f"sys.exit(repr([name for name in {names} if name in sys.modules]) if set({names}) & set(sys.modules) else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    assert all(int(count) > 0 for count in done.stdout.split())


def test_many_threads_can_read_at_once() -> None:
    """Reads in several threads all succeed, also if Python switches threads while it parses."""
    code = (
        f"import gc, sys, time; sys.path.insert(0, {str(EXAMPLE)!r})\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from stdlib_search.reader import DocReader\n"
        "reader = DocReader()\n"
        "gc.callbacks.append(lambda *_: time.sleep(0.0001)); gc.set_threshold(200)\n"  # switch threads in ast.parse
        "with ThreadPoolExecutor(8) as threads: list(threads.map(reader.read, reader.modules()[:40]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr


def test_the_classes_import_nothing_but_the_standard_library() -> None:
    """The example needs only the standard library, so it can be copied as it is."""
    imported: set[str] = set()
    for path in EXAMPLE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module))
    assert {name.partition(".")[0] for name in imported} - sys.stdlib_module_names == {"stdlib_search"}


def test_the_yaml_names_classes_that_exist() -> None:
    """Every `class:` in the deployment file can be imported."""
    paths = re.findall(r"class: (\S+):(\S+)", (EXAMPLE / "service_deployment.yaml").read_text())
    assert {getattr(importlib.import_module(module), name) for module, name in paths} == {
        DocReader, DocStore, DocIndex, Search, Demo,
    }  # fmt: skip


def test_profile_processes_has_the_readers_compute_elsewhere() -> None:
    """With the profile `processes`, two child processes read, and they find the same as one process."""
    with Environment("example") as env:
        env.load_service_deployment_config(EXAMPLE / "service_deployment.yaml", profile="processes")
        env.deploy()
        pids = {each["pid"] for each in env.get_service_status("reader")["replicas"]}
        assert len(pids) == 2
        assert os.getpid() not in pids
        found = env.service("reader").read("tempfile")
    assert [each.name for each in found] == [each.name for each in DocReader().read("tempfile")]


def test_profile_ray_puts_on_a_cluster_what_calls_no_other_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The profile `ray` puts only the reader on the cluster, because it calls no other service.

    A replica on the cluster could not call them. Planning starts no Ray.
    """
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with Environment("example") as env:
        env.load_service_deployment_config(EXAMPLE / "service_deployment.yaml", profile="ray")
        plan = env.plan()
    targets = {service.name: service.decisions[0].id for service in plan.services}
    assert targets == {
        "reader": "remote_any", "store": "local", "index": "local", "search": "local", "demo": "local",
    }  # fmt: skip
    assert "ctx" not in inspect.signature(DocReader).parameters
    assert not plan.unplaced


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TemporaryDirectory", ["temporary", "directory"]),
        ("HTTPServer.read_text2", ["http", "server", "read", "text", "2"]),
        ("the arguments of a class", ["argument", "class"]),
        ("entries, basis, status, os", ["entry", "basis", "status", "os"]),
    ],
)
def test_names_are_split_and_plurals_are_cut(text: str, words: list[str]) -> None:
    """camelCase and snake_case names are split into words, and plurals are cut to the singular."""
    assert tokens(text) == words


def test_bm25_ranks_the_exact_match_first() -> None:
    """A document with all words of the query ranks above one that has one word often."""
    ranking = Bm25().with_documents(
        [
            document("gzip.open", "Open a file."),
            document("gzip.compress", "Compress data with gzip."),
            document("zlib.crc", "gzip gzip gzip gzip gzip."),
            document("os.remove", "Remove a path."),
        ]
    )
    names = [name for name, _ in ranking.search("compress with gzip")]
    assert names[0] == "gzip.compress"
    assert set(names) == {"gzip.compress", "gzip.open", "zlib.crc"}


def test_bm25_is_the_published_formula() -> None:
    """
    The score is that of the published formula, worked out by hand.

    There are two documents of 3 and 6 words; one has the word four times.
    """
    ranking = Bm25().with_documents([document("x", "y"), document("b", "c c. d")])  # x y y, and b c c c c d
    ((name, score),) = ranking.search("c")
    rarity = 0.6931471805599453  # ln(1 + (2 - 1 + 0.5) / (1 + 0.5))
    assert name == "b"
    assert score == pytest.approx(rarity * 4 * 2.2 / (4 + 1.2 * (0.25 + 0.75 * 6 / 4.5)))


def test_bm25_forgets_what_was_replaced() -> None:
    """A document that is put again is found by its new words only and counted once. The old ranking is unchanged."""
    old = Bm25().with_documents([document("a", "apple"), document("b", "pear")])
    new = old.with_documents([document("a", "plum")])
    assert [[name for name, _ in new.search(word)] for word in ("apple", "plum", "pear")] == [[], ["a"], ["b"]]
    assert [name for name, _ in old.search("apple")] == ["a"]
    assert len(new) == 2


def test_nothing_is_found_by_unknown_words() -> None:
    """Unknown words and stop words find nothing, and an empty index finds nothing either."""
    assert Bm25().search("anything") == []
    assert Bm25().with_documents([document("a", "apple")]).search("the of pear") == []


def test_store_tells_what_changed_since() -> None:
    """`changes_since` returns each changed document once, in its latest state; all of them for an unknown version."""
    store = DocStore()
    first = store.put_many([document("a"), document("b")])
    second = store.put_many([document("b", "new"), document("c"), document("c", "newer")])

    assert store.changes_since(Version()) == (second, [document("a"), document("b", "new"), document("c", "newer")])
    assert store.changes_since(first) == (second, [document("b", "new"), document("c", "newer")])
    assert store.changes_since(second) == (second, [])
    assert len(DocStore().changes_since(second)[1]) == 0
    assert len(store.changes_since(DocStore().put_many([document("x")]))[1]) == 3


def test_store_gets_by_name() -> None:
    """`get_many` keeps the order of the names and leaves out unknown ones."""
    store = DocStore()
    store.put_many([document("a"), document("b")])
    assert store.get("a") == document("a")
    assert store.get("x") is None
    assert [found.name for found in store.get_many(["b", "x", "a"])] == ["b", "a"]
    assert store.count() == 2


def test_changes_since_loses_nothing_under_concurrent_puts() -> None:
    """A follower that goes from version to version sees every document exactly once, also under concurrent puts."""
    store, writers, each = DocStore(), 6, 200
    start, written = threading.Barrier(writers + 1), threading.Event()

    def write(writer: int) -> None:
        start.wait(PATIENCE_S)
        for i in range(each):
            store.put_many([document(f"{writer}.{i}.a"), document(f"{writer}.{i}.b")])

    def follow() -> list[str]:
        version, seen = Version(), list[str]()
        start.wait(PATIENCE_S)
        last = False
        while not last:
            last = written.is_set()  # read before asking: a question after the last put returns everything
            version, documents = store.changes_since(version)
            seen += [found.name for found in documents]
        return seen

    with ThreadPoolExecutor(writers + 1) as threads:
        follower = threads.submit(follow)
        try:
            for writing in [threads.submit(write, writer) for writer in range(writers)]:
                writing.result(PATIENCE_S)
        finally:
            written.set()
        seen = follower.result(PATIENCE_S)
    assert len(seen) == len(set(seen)) == store.count() == writers * each * 2


def test_every_index_replica_knows_what_was_put_before() -> None:
    """Each replica finds a document right after it was put, under concurrent puts too. At the end it has each once."""
    store, threads_count, each = DocStore(), 6, 30
    replicas = [DocIndex(DirectContext(store=store)) for _ in range(2)]
    start = threading.Barrier(threads_count)

    def put_and_search(thread: int) -> int:
        start.wait(PATIENCE_S)
        found = 0
        for i in range(each):
            word = f"{'abcdef'[thread]}{'xyz'[i % 3]}{'q' * (i // 3 + 1)}"
            store.put_many([document(f"document {word}")])
            found += len(replicas[i % 2].search(word))
        return found

    with ThreadPoolExecutor(threads_count) as threads:
        counts = list(threads.map(put_and_search, range(threads_count), timeout=PATIENCE_S))
    assert counts == [each] * threads_count
    assert [replica.count() for replica in replicas] == [threads_count * each] * 2


def test_index_replica_catches_up_in_one_thread_at_a_time() -> None:
    """A replica catches up in one thread at a time, so an older copy never replaces a newer one."""
    store, arrivals = DocStore(), threading.Semaphore(0)
    index = DocIndex(ctx := DirectContext(store=store))

    class Door:
        """The index's lock, which also counts the threads that come to it."""

        lock = threading.Lock()

        def __enter__(self) -> None:
            arrivals.release()
            self.lock.acquire()

        def __exit__(self, *exc: object) -> None:
            self.lock.release()

    class SlowStore:
        """Answers the first `changes_since` with old data, after new data and a second thread have arrived."""

        version = store.version
        first = True

        def changes_since(self, version: Version) -> tuple[Version, list[Document]]:
            answer = store.changes_since(version)
            if self.first:
                self.first = False
                assert arrivals.acquire(timeout=PATIENCE_S)  # the first thread itself
                store.put_many([document("new", "pear")])
                later.append(threads.submit(index.search, "pear"))
                assert arrivals.acquire(timeout=PATIENCE_S)
            return answer

    later: list[Future[Any]] = []
    index._catching_up = Door()  # type: ignore[assignment]  # only entered and left
    ctx.services["store"] = SlowStore()
    store.put_many([document("old", "apple")])
    with ThreadPoolExecutor(1) as threads:
        assert len(index.search("apple")) == 1
        assert len(later[0].result(PATIENCE_S)) == 1
    assert index.refresh() == 0


def test_index_reads_only_what_is_new() -> None:
    """`refresh` fetches only new documents."""
    store = DocStore()
    index = DocIndex(DirectContext(docs=store), store="docs")
    store.put_many([document("a"), document("b")])
    assert [index.refresh(), index.refresh()] == [2, 0]
    store.put_many([document("c")])
    assert index.refresh() == 1
    assert index.count() == 3


def test_index_starts_again_with_a_new_store() -> None:
    """After the store was replaced, the index finds nothing of the old store, even if the new one had more changes."""
    ctx = DirectContext(store=DocStore())
    index = DocIndex(ctx)
    ctx.services["store"].put_many([document("old", "apple")])
    assert len(index.search("apple")) == 1

    ctx.services["store"] = DocStore()
    ctx.services["store"].put_many([document("new", "pear"), document("newer", "pear")])

    assert index.search("apple") == []
    assert len(index.search("pear")) == 2


def deployed(root: Path | None = None) -> DirectContext:
    """Return a context with all services of the example."""
    ctx = DirectContext(reader=DocReader(str(root) if root else None), store=DocStore())
    ctx.services["index"] = DocIndex(ctx)
    ctx.services["search"] = Search(ctx)
    return ctx


def test_search_answers_from_what_it_built(tree: Path) -> None:
    """`build` reports progress for each module. `query` returns the best answers first, with data from the store."""
    search, steps = deployed(tree).services["search"], list[tuple[int, int]]()
    assert search.build(lambda done, total: steps.append((done, total))) == 7
    assert steps == [(done, 4) for done in range(1, 5)]

    best, *others = search.query("put an item in a queue", limit=3)
    assert (best.name, best.signature, best.summary) == (
        "queue.Queue.put",
        "put(self, item, block=True)",
        "Put an item.",
    )
    assert len(others) == 2
    assert all(best.score > other.score for other in others)


def test_build_fails_if_a_module_cannot_be_read(tree: Path) -> None:
    """`build` raises if a module cannot be read: an incomplete index would look complete."""
    (tree / "heapq.py").write_text("def broken(:")
    with pytest.raises(SyntaxError):
        deployed(tree).services["search"].build()


def test_the_demo_finds_what_it_asks_for_in_the_real_library(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole job on the real standard library: progress goes to stderr, and the report has good answers."""
    report = Demo(deployed(), crowd=12).process()
    for name in (
        "gzip.compress",
        "argparse",
        "tempfile.TemporaryDirectory",
        "bisect.insort_left",
        "random.Random.shuffle",
    ):
        assert re.search(rf"\d\. {re.escape(name)}\n", report), report
    assert "nothing found" not in report
    assert int(re.match(r"[\d,]+", report)[0].replace(",", "")) > 3000  # type: ignore[index]  # no match is a failure too
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("reading modules: 100 %")


def test_progress_in_a_file_is_a_line_every_ten_percent() -> None:
    """Progress that is not on a terminal prints a line every 10 %."""
    stream = io.StringIO()
    progress = Progress("reading", stream)
    for done in range(1, 201):
        progress(done, 200)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[-1] == "reading: 100 % (200/200)"


def test_progress_on_a_terminal_is_one_line() -> None:
    """Progress on a terminal redraws one line and ends with a newline."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress("reading", stream)
    for done in range(1, 201):
        progress(done, 200)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith(f"\rreading [{'#' * 30}] 200/200\n")
