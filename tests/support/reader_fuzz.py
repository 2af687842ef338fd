"""
Damages deployment files, and checks that the reader handles any bytes correctly.

    python tests/support/reader_fuzz.py --seed 1 --count 100000

This reads that many damaged files and prints a report. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import attrs

import deployment_files
from sage_deploy_files import dump, read
from sage_deploy_files.reading.problems import refuse
from sage_deploy_files.reading.reader import examine
from sage_plugins.config.service_config import GROUPS, fields
from sage_plugins.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Tokens with a meaning in YAML or in deployment files, and tokens without any.
TOKENS = [*"{}[],:?-&*!|>'\"%@`#<~=\n \t\\$", ": ", "- ", "\n  ", "\n    - ", "<<", "<<: ", "---\n", "...\n", "? "]
TOKENS += ["&a ", "*a", "&b {", "*b", "!!str ", "!x ", "%YAML 1.2\n", "%TAG ! x\n", "|\n", ">-\n", "\\x", "\\u12", "''"]
TOKENS += ["${", "${NUMBER}", "${EMPTY}", "${TEXT:-x}", "$${", "}", "services", "kv", "profiles", "defaults", "options"]
TOKENS += [*GROUPS, *fields(), "class", "init", "args", "kwargs", "a:B", "min", "max", "size", "wait", "idempotent"]
TOKENS += ["1", "0", "-1", "2.5", "1e3", "1e999", ".inf", ".nan", "0x1F", "017", "null", "true", "no", "x", "3s", "4Gi"]
TOKENS += ["9" * 40, "a" * 70, "[" * 33, "{a: " * 33, "- " * 33, "\ufeff", "\x85", "\u2028", "\ud800"]
TOKENS += ["é", "服务", "😀", "\0", "\x07", "\x1b[31m", "\x7f", "\r", "\r\n", "\v", "\f"]

_WORD = re.compile(r"\w+|[^\w\s]|\s+")
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def corpus() -> list[str]:
    """Return the files to damage, from both folders, with about as many good ones as bad ones."""
    good, bad = (
        [(folder / name).read_text(encoding="utf-8") for name in deployment_files.names(folder)]
        for folder in (deployment_files.GOOD, deployment_files.BAD)
    )
    return good * (len(bad) // len(good)) + bad


def _some(random: Random, count: int) -> slice:
    start = random.randrange(count + 1)
    return slice(start, min(count, start + random.choice((1, 1, 1, 2, 3, 8))))


def _parts(damage: Callable[[Random, list[str]], None], split: Callable[[str], list[str]]) -> Callable[..., str]:
    def damaged(random: Random, text: str, _: list[str]) -> str:
        parts = split(text)
        damage(random, parts)
        return "".join(parts)

    return damaged


def _delete(random: Random, parts: list[str]) -> None:
    del parts[_some(random, len(parts))]


def _repeat(random: Random, parts: list[str]) -> None:
    some = _some(random, len(parts))
    parts[some] = parts[some] * random.choice((2, 2, 3))


def _move(random: Random, parts: list[str]) -> None:
    some = _some(random, len(parts))
    moved = parts[some]
    del parts[some]
    at = random.randrange(len(parts) + 1)
    parts[at:at] = moved


def _insert(random: Random, parts: list[str]) -> None:
    at = random.randrange(len(parts) + 1)
    parts[at:at] = random.choices(TOKENS, k=random.choice((1, 1, 2, 3)))


def _replace(random: Random, parts: list[str]) -> None:
    parts[_some(random, len(parts))] = [random.choice(TOKENS)]


def _indent(random: Random, parts: list[str]) -> None:
    some = _some(random, len(parts))
    change = random.choice((-4, -2, -1, 1, 2, 4))
    parts[some] = [" " * change + line if change > 0 else line[-change:] for line in parts[some]]


def _cut(random: Random, text: str, _: list[str]) -> str:
    start, end = sorted(random.randrange(len(text) + 1) for _ in "ab")
    return text[start:] if random.random() < 0.3 else text[:end]


def _splice(random: Random, text: str, texts: list[str]) -> str:
    lines, others = text.splitlines(keepends=True), random.choice(texts).splitlines(keepends=True)
    at, start = random.randrange(len(lines) + 1), random.randrange(len(others) + 1)
    return "".join([*lines[:at], *others[start:], *(lines[at:] if random.random() < 0.5 else [])])


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


DAMAGES: list[Callable[[Random, str, list[str]], str]] = [
    *(_parts(damage, _lines) for damage in (_delete, _repeat, _move, _insert, _replace, _indent, _indent)),
    *(_parts(damage, _WORD.findall) for damage in (_delete, _repeat, _move, _insert, _replace, _replace)),
    _parts(_insert, list),
    _cut,
    _splice,
]


def damaged(random: Random, texts: list[str]) -> bytes:
    """Return one of the texts with some damages."""
    text = random.choice(texts)
    for _ in range(random.choice((1, 1, 2, 3, 5))):
        text = random.choice(DAMAGES)(random, text, texts)
    data = text.encode("utf-8", "surrogatepass")
    if data and random.random() < 0.02:
        at = random.randrange(len(data))
        data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
    return data


def check(data: bytes, path: Path) -> str:
    """
    Write *data* to *path*, let the reader read it, and check all rules that hold for any bytes.

    Returns:
        `"accepted"`, or the rule of the first error.
    """
    path.write_bytes(data)
    file = examine(path, profile=deployment_files.profile_of(path))
    try:
        if any(problem.severity == "error" for problem in file.problems):
            refuse(file.path, file.problems)  # as `read` does
    except ConfigError as error:
        lines = _BREAK.split(data.decode("utf-8-sig", "replace"))
        _check_refusal(error, lines)
        for entry in file.services.values():
            entry.config()
        return error.problems[0].id
    for entry in file.services.values():
        entry.config()
    text = dump(file)
    path.write_text(text, encoding="utf-8")
    try:
        again = read(path)
    except ConfigError as error:
        # With its aliases written out, the file may exceed the size limit.
        if {problem.id for problem in error.problems if problem.severity == "error"} == {"E108"}:
            return "accepted"
        raise
    # NaN is not equal to itself.
    assert again == attrs.evolve(file, profile=None) or ".nan" in text, "written out, it says the same"
    return "accepted"


def _check_refusal(error: ConfigError, lines: list[str]) -> None:
    assert error.problems, "there is a reason"
    assert str(error).encode()
    for problem in error.problems:
        text = str(problem)
        assert text.isprintable(), "a problem is one line that can be printed"
        assert problem.message
        assert 1 <= problem.line <= len(lines), f"{text} is in the file"
        line = lines[problem.line - 1]
        # Bytes that are no text may become another number of characters.
        assert 1 <= problem.column <= len(line) + 1 or "\ufffd" in line, f"{text} is in its line"


def main() -> None:
    """Read as many damaged files as requested."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=10_000)
    options = parser.parse_args()
    random, texts = Random(options.seed), corpus()  # noqa: S311 - repeatable, not secret
    found: Counter[str] = Counter()
    slowest, slow = 0.0, b""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, deployment_files.surroundings(Path(folder)):
        for _ in range(options.count):
            data = damaged(random, texts)
            start = time.process_time()
            try:
                found[check(data, Path("fuzz.yaml"))] += 1
            except Exception:  # noqa: BLE001 - the fuzzer looks for these
                found["failed"] += 1
                sys.stdout.write(f"{data!r}\n{traceback.format_exc()}\n")
            taken = time.process_time() - start
            if taken > slowest:
                slowest, slow = taken, data
    report = {"seed": options.seed, "read": sum(found.values()), "seconds": round(time.monotonic() - begun)}
    report |= {"slowest_ms": round(slowest * 1000), "slowest_file": repr(slow[:300])}
    sys.stdout.write(json.dumps(report | dict(found.most_common())) + "\n")
    sys.exit(bool(found["failed"]))


if __name__ == "__main__":
    main()
