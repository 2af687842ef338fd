"""
A YAML file's bytes as a tree of plain values that know their line and column, within fixed limits.

The reader is our own, on PyYAML's stream of events: nothing is ever constructed from a tag, and nesting is counted
before it is entered. Scalars mean what YAML 1.2's core schema says (`no`, `on` and `1:30` are strings, `017` is 17).
Anchors, aliases, merge keys and tags are refused: a deployment file has `defaults` and `profiles` instead.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from sage_plugins.field_checks import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "MAX_SCALAR", "Flaw", "Node", "read_nodes"]

#: PyYAML takes two seconds for a file of this size, in the worst case.
MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 32
MAX_NODES: Final = 50_000
MAX_SCALAR: Final = 64 * 1024
#: Python refuses to read integers of more than some thousand digits, and no field takes more than ten.
_MAX_DIGITS: Final = 300

_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_OCTAL: Final = re.compile(r"0o[0-7]+")
_HEXADECIMAL: Final = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITY: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_NAN: Final = frozenset({".nan", ".NaN", ".NAN"})


@attrs.frozen
class Flaw:
    """Something in the file that is wrong as YAML, with its place; lines and columns count from 1."""

    id: str
    line: int
    column: int
    message: str
    fix: str = ""


@attrs.define(eq=False)
class Node:
    """
    One value of the file and its place.

    Attributes:
        kind: `"scalar"`, `"list"` or `"mapping"`.
        line: Line of the value's first character, from 1.
        column: Column of the value's first character, from 1.
        value: The value as plain Python: None, bool, int, float, str, list, dict with string keys.
        items: The nodes of a list.
        entries: The nodes of a mapping by key.
        keys: Line and column of each key of a mapping.
        variables: The variables of the environment that a scalar consists of.
    """

    kind: Literal["scalar", "list", "mapping"]
    line: int
    column: int
    value: Any = None
    items: list[Node] = attrs.Factory(list)
    entries: dict[str, Node] = attrs.Factory(dict)
    keys: dict[str, tuple[int, int]] = attrs.Factory(dict)
    variables: tuple[str, ...] = ()


#: Stands for a key that is wrong, until its value has gone by.
_DROPPED: Final = object()


class _StopReadingError(Exception):
    """The rest of the file cannot be read, or is not worth it."""

    def __init__(self, flaw: Flaw) -> None:
        super().__init__(flaw.message)
        self.flaw = flaw


def read_nodes(data: bytes) -> tuple[Node | None, list[Flaw]]:
    """
    The root of the file's one document, or None, and everything that is wrong with the file as YAML.

    A tree that comes with flaws lacks the values that they are about.
    """
    builder = _Builder()
    try:
        for event in _events(_text(data)):
            builder.take(event)
        if builder.root is None and not builder.flaws:
            builder.flaws.append(Flaw("E110", 1, 1, "the file is empty", "start with services:"))
    except _StopReadingError as stop:
        return None, [*builder.flaws, stop.flaw]
    return builder.root, builder.flaws


# Bytes to text.


def _text(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 1024} KiB"
        raise _StopReadingError(Flaw("E108", 1, 1, message, "split it into several files"))
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _StopReadingError(Flaw("E110", 1, 1, "the file is UTF-16, not UTF-8", "save it as UTF-8"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # With a byte order mark the codec counts from behind it; the bytes that it was given know where it stopped.
        start = error.start + len(data) - len(error.object)
        line, column = _place(data[:start].decode("utf-8-sig", errors="replace"))
        message = f"byte 0x{data[start]:02x} at offset {start} is not UTF-8"
        raise _StopReadingError(Flaw("E110", line, column, message, "save the file as UTF-8")) from None
    found = _UNPRINTABLE.search(text)
    if found:
        line, column = _place(text[: found.start()])
        message = f"the control character U+{ord(found[0]):04X} is not allowed"
        raise _StopReadingError(Flaw("E110", line, column, message, "remove it, or write it as an escape in quotes"))
    return text


def _place(before: str) -> tuple[int, int]:
    """Line and column of what comes after the text *before*, with the line breaks that PyYAML counts."""
    lines = _BREAK.split(before)
    return len(lines), len(lines[-1]) + 1


# Text to events.


@functools.cache
def _loader() -> Any:
    # imported here: PyYAML costs 10 ms, and most processes read no file
    from yaml.parser import Parser
    from yaml.reader import Reader
    from yaml.scanner import Scanner

    class Events(Reader, Scanner, Parser):
        """PyYAML up to the events: no composer, no resolver, no constructor, so nothing to switch off."""

        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            Scanner.__init__(self)
            Parser.__init__(self)

    return Events


def _events(text: str) -> Iterator[Any]:
    from yaml import MarkedYAMLError

    loader = _loader()(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    except _StopReadingError:
        raise
    except MarkedYAMLError as error:
        raise _StopReadingError(_syntax_flaw(error)) from None
    except Exception as error:  # noqa: BLE001 - PyYAML lets others pass, such as ValueError for "\UFFFFFFFF"
        flaw = Flaw("E110", loader.line + 1, loader.column + 1, f"not valid YAML: {_one_line(str(error))}")
        raise _StopReadingError(flaw) from None


def _syntax_flaw(error: Any) -> Flaw:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    what = _one_line(error.problem or "")
    context = _one_line(error.context or "").replace("while scanning for the next token", "")
    fix = ""
    if "'\\t'" in what:
        what, fix = "a tab cannot stand here", "indent with spaces"
    elif "mapping values are not allowed" in what:
        fix = "check the indentation; put a value with ': ' in it in quotes"
    elif "could not find expected ':'" in what:
        fix = "write 'key: value', with a space behind the colon"
    return Flaw("E110", line, column, f"not valid YAML: {what}" + (f" {context}" if context else ""), fix)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


# Events to nodes.


class _Builder:
    """Takes one event after the other; open collections are on a stack of its own, so depth costs no recursion."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.flaws: list[Flaw] = []
        self._open: list[Node] = []
        # For each open collection: the key that waits for its value, and whether that value is to be dropped.
        self._keys: list[object] = []
        self._drop: list[bool] = []
        self._documents = 0
        self._nodes = 0
        self._take = {
            "DocumentStartEvent": self._document,
            "AliasEvent": self._alias,
            "ScalarEvent": self._scalar,
            "SequenceStartEvent": self._start,
            "MappingStartEvent": self._start,
            "SequenceEndEvent": self._end,
            "MappingEndEvent": self._end,
        }

    def take(self, event: Any) -> None:
        handler = self._take.get(type(event).__name__)
        if handler is not None:
            handler(event)

    def _flaw(self, id: str, event: Any, message: str, fix: str = "") -> Flaw:
        flaw = Flaw(id, event.start_mark.line + 1, event.start_mark.column + 1, message, fix)
        self.flaws.append(flaw)
        return flaw

    def _stop(self, id: str, event: Any, message: str, fix: str = "") -> None:
        raise _StopReadingError(Flaw(id, event.start_mark.line + 1, event.start_mark.column + 1, message, fix))

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            self._stop("E110", event, "the file has more than one document", "keep one, without a second '---'")
        if event.version not in {None, (1, 2)}:
            version = ".".join(str(number) for number in event.version)
            self._flaw("E110", event, f"YAML {version} is not supported", "remove the %YAML line; files are YAML 1.2")

    def _common(self, event: Any) -> bool:
        """Count and check what every node may have; False if the node is to be dropped."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._stop("E108", event, f"the file has more than {MAX_NODES} values")
        good = True
        if event.anchor is not None:
            self._flaw(
                "E111", event, f"anchor &{event.anchor[:60]}: anchors are not supported", "use defaults or profiles"
            )
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._flaw(
                "E106",
                event,
                f"tag {shown(tag.replace('tag:yaml.org,2002:', '!!'))}: tags are not supported",
                "remove it",
            )
            good = False
        return good

    def _alias(self, event: Any) -> None:
        self._nodes += 1
        message = f"alias *{event.anchor[:60]}: aliases are not supported"
        self._flaw("E111", event, message, "write the value out, or use defaults or profiles")
        self._place_dropped()

    def _scalar(self, event: Any) -> None:
        good = self._common(event)
        text: str = event.value
        if len(text) > MAX_SCALAR:
            self._stop("E108", event, f"a value of {len(text)} characters; the most is {MAX_SCALAR}")
        node = Node("scalar", event.start_mark.line + 1, event.start_mark.column + 1)
        is_plain = event.implicit[0]
        if good and not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            self._flaw(
                "E110", event, "half of a surrogate pair is not a character", r"write the character, or \U and 8 digits"
            )
            good = False
        elif good and is_plain and len(text) > _MAX_DIGITS and _INTEGER.fullmatch(text):
            self._flaw("E103", event, f"a number of {len(text)} digits is out of every range")
            good = False
        elif good:
            node.value = _resolved(text) if is_plain else text
        if self._wants_key():
            self._key(event, node, good=good, is_plain=is_plain)
        elif good:
            self._put(node)
        else:
            self._place_dropped()

    def _start(self, event: Any) -> None:
        good = self._common(event)
        if len(self._open) >= MAX_DEPTH:
            self._stop("E108", event, f"nested more than {MAX_DEPTH} levels deep")
        if self._wants_key():
            if not self._drop[-1]:
                self._flaw("E102", event, "keys must be strings, got a list or a mapping", "put it in quotes")
            good = False
        is_mapping = type(event).__name__ == "MappingStartEvent"
        node = Node("mapping" if is_mapping else "list", event.start_mark.line + 1, event.start_mark.column + 1)
        node.value = {} if is_mapping else []
        self._open.append(node)
        self._keys.append(None)
        self._drop.append(not good)

    def _end(self, _: Any) -> None:
        node = self._open.pop()
        self._keys.pop()
        if self._drop.pop():
            self._place_dropped()
        else:
            self._put(node)

    def _wants_key(self) -> bool:
        return bool(self._open) and self._open[-1].kind == "mapping" and self._keys[-1] is None

    def _key(self, event: Any, node: Node, *, good: bool, is_plain: bool) -> None:
        name = node.value
        # A key that is wrong keeps its place, so that its value is not taken for a key.
        self._keys[-1] = _DROPPED
        if not good:
            return
        if is_plain and event.value == "<<":
            self._flaw("E111", event, "merge keys (<<) are not supported", "use defaults or profiles")
        elif not isinstance(name, str):
            self._flaw("E102", event, f"keys must be strings, got {shown(name)}", "put it in quotes")
        elif name in self._open[-1].keys:
            first = self._open[-1].keys[name][0]
            self._flaw("E104", event, f"duplicate key {shown(name)}, first on line {first}", "remove one of them")
        else:
            self._keys[-1] = name
            self._open[-1].keys[name] = (node.line, node.column)

    def _put(self, node: Node) -> None:
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if parent.kind == "list":
            parent.items.append(node)
            parent.value.append(node.value)
            return
        name = self._keys[-1]
        self._keys[-1] = None
        if isinstance(name, str):
            parent.entries[name] = node
            parent.value[name] = node.value

    def _place_dropped(self) -> None:
        if self._open and self._open[-1].kind == "mapping":
            self._keys[-1] = None if self._keys[-1] is not None else _DROPPED


def _resolved(text: str) -> Any:
    """What a scalar without quotes means in YAML 1.2's core schema."""
    value: Any = text
    if text in _NULL:
        value = None
    elif text in _TRUE or text in _FALSE:
        value = text in _TRUE
    elif _INTEGER.fullmatch(text):
        value = int(text)
    elif _FLOAT.fullmatch(text) or _INFINITY.fullmatch(text):
        value = float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf"))
    elif text in _NAN:
        value = float("nan")
    elif _OCTAL.fullmatch(text):
        value = int(text, 8)
    elif _HEXADECIMAL.fullmatch(text):
        value = int(text, 16)
    return value
