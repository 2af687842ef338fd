"""
Builds a tree of plain values with line and column from a YAML file's bytes, within fixed limits.

The tree is our own, built on PyYAML's stream of events. Tags are refused, and never construct objects. Nesting is
checked before it is entered. Environment variables are replaced first; then scalars follow YAML 1.2's core schema
(`no`, `on` and `1:30` are strings, `017` is 17).

An alias refers to the same node as its anchor. Its full size counts against the limits before anything visits it. So
reading takes linear time and memory, and a walk over the tree meets no more values than the limits allow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import attrs

from sage_deploy_files.reading.events import MAX_BYTES, Flaw, StopReadingError, decoded, events
from sage_deploy_files.reading.scalars import MAX_SCALAR, digits_out_of_range, resolved
from sage_deploy_files.reading.variables import Variables
from sage_plugins.config.field_checks import shown
from sage_plugins.texts import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sage_deploy_files.reading.variables import Fault

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_NODES", "MAX_SCALAR", "Flaw", "Node", "read_nodes"]

#: Maximum nesting of lists and mappings. An alias counts as deep as the value it refers to.
MAX_DEPTH: Final = 32
#: Maximum number of keys and values in a file. Those behind an alias count each time.
MAX_NODES: Final = 50_000

#: Only the first few errors get suggestions. A file may have thousands of anchors, so only the latest are compared.
_SUGGESTIONS: Final = 5
_COMPARED: Final = 1000
_SHOWN: Final = 60
#: Fixes for a file, and for a value, that is too large.
_SPLIT: Final = "split it into several files"
_SHORTEN: Final = "keep a long text in a file of its own, and name that"

#: Placeholder for a wrong key until its value has passed.
_DROPPED: Final = object()
#: Placeholder for the key `<<` until its value has passed.
_MERGE: Final = object()


@attrs.define(eq=False)
class Node:
    """
    One value of the file and its place. Nodes and values are shared between aliases and merges: do not change them.

    Attributes:
        kind: `"scalar"`, `"list"` or `"mapping"`.
        line: Line of the value's first character, from 1. With an anchor: the anchor's line, also for its aliases.
        column: Column of that character, from 1.
        value: The value as plain Python: None, bool, int, float, str, list, dict with string keys.
        items: The nodes of a list.
        entries: The nodes of a mapping by key: its own in their order, then the merged ones.
        keys: Line and column of each key of a mapping, where it is written. Includes keys with wrong values.
        size: Number of keys and values in it, itself included. Those behind an alias count each time.
        height: Levels of lists and mappings, itself included: 0 for a scalar, 1 for a list of scalars.
        variables: Names of the environment variables in a scalar, in the order of first use. Includes unset ones whose
            default was used.
        lacks: Whether something in it is left out because it is wrong.
    """

    kind: Literal["scalar", "list", "mapping"]
    line: int
    column: int
    value: Any = None
    items: list[Node] = attrs.Factory(list)
    entries: dict[str, Node] = attrs.Factory(dict)
    keys: dict[str, tuple[int, int]] = attrs.Factory(dict)
    size: int = 1
    height: int = 0
    variables: tuple[str, ...] = ()
    lacks: bool = False


@attrs.define(eq=False)
class _Open:
    """
    A list or a mapping that has not ended yet.

    Attributes:
        node: Its node.
        drop: Whether it is wrong and will be left out of the tree.
        in_merge: Whether it is the list of mappings that a `<<` merges.
        key: For a mapping: the key that waits for its value.
        merge_line: For a mapping: the line of its `<<`.
        merged: For a mapping: the mappings that its `<<` merges.
    """

    node: Node
    drop: bool
    in_merge: bool
    key: object = None
    merge_line: int | None = None
    merged: list[Node] = attrs.Factory(list)


def read_nodes(data: bytes, environment: Mapping[str, str]) -> tuple[Node | None, list[Flaw]]:
    """
    Return the root of the file's only document, or None, and all errors of the file as YAML.

    If there are flaws, the tree lacks the values they concern. No flaw shows the content of a variable.

    Args:
        data: The file.
        environment: Environment variables by name, for `${NAME}` in values. Read, never changed.
    """
    flaws: list[Flaw] = []
    try:
        text = decoded(data)
        builder = _Builder(text, environment, flaws)
        for event in events(text):
            builder.take(event)
    except StopReadingError as stop:
        return None, [*flaws, stop.flaw]
    if builder.root is None and not flaws:
        flaws.append(Flaw("E110", 1, 1, "the file is empty", "start with services:"))
    return builder.root, flaws


class _Builder:
    """Takes one event after the other. Open collections are on its own stack, so depth costs no recursion."""

    def __init__(self, text: str, environment: Mapping[str, str], flaws: list[Flaw]) -> None:
        self.root: Node | None = None
        self._text = text
        self._variables = Variables(environment)
        self._flaws = flaws
        self._open: list[_Open] = []
        # The latest node of each anchor, and whether it is valid.
        self._anchors: dict[str, tuple[Node, bool]] = {}
        self._documents = 0
        self._nodes = 0
        self._suggestions = _SUGGESTIONS
        self._take: dict[str, Callable[[Any], None]] = {
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

    def _flaw(self, id: str, at: tuple[int, int], message: str, fix: str = "") -> None:
        self._flaws.append(Flaw(id, *at, message, fix))

    def _document(self, event: Any) -> None:
        self._documents += 1
        at = _place(event)
        if self._documents > 1:
            _stop("E110", at, "the file has more than one document", "keep one, without a second '---'")
        if event.version not in {None, (1, 2)}:
            version = ".".join(str(number) for number in event.version)
            self._flaw("E110", at, f"YAML {version} is not supported", "remove the %YAML line; files are YAML 1.2")

    # Starts of nodes.

    def _count(self, at: tuple[int, int]) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            _stop("E108", at, f"the file has more than {MAX_NODES} keys and values", _SPLIT)

    def _untagged(self, event: Any) -> bool:
        if event.tag is None:
            return True
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        self._flaw("E106", _place(event), f"tag {shown(tag)}: tags are not supported", "remove it")
        return False

    def _scalar(self, event: Any) -> None:
        at = _place(event)
        self._count(at)
        if len(event.value) > MAX_SCALAR:
            _stop("E108", at, f"a value of {len(event.value)} characters; the most is {MAX_SCALAR}", _SHORTEN)
        is_key = self._wants_key()
        is_plain = event.implicit[0]
        node = Node("scalar", *at)
        good = self._untagged(event) and self._read(event, node, is_key=is_key)
        if event.anchor is not None:
            self._anchors[event.anchor] = node, good
        if is_key and good and is_plain and event.value == "<<":
            self._merge_key(at)
        elif is_key:
            self._key(node if good else None, at)
        elif good:
            self._put(node, at)
        else:
            self._place_dropped()

    def _read(self, event: Any, node: Node, *, is_key: bool) -> bool:
        """Set the value of a scalar's node. Return False if it is invalid."""
        text: str = event.value
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            fix = r"write the character, or \U and 8 digits"
            self._flaw("E110", _place(event), "half of a surrogate pair is not a character", fix)
            return False
        if not is_key and "${" in text:
            replaced = self._variables.replace(text)
            for fault in replaced.faults:
                self._fault(event, fault)
            if replaced.faults:
                return False
            text, node.variables = replaced.text, replaced.names
        is_plain = event.implicit[0]
        if is_plain and digits_out_of_range(text):
            self._flaw("E103", _place(event), f"a number of {len(text)} digits is out of every range")
            return False
        # An empty value means null. An empty variable is a mistake, and must not turn a limit off.
        is_text = not is_plain or (not text and bool(node.variables))
        node.value = text if is_text else resolved(text)
        return True

    def _fault(self, event: Any, fault: Fault) -> None:
        line, column = _place(event)
        if fault.id == "E108":
            _stop(fault.id, (line, column), fault.message, fault.fix)
        # If the value is the file's own text (one line, no escapes), point at the fault in it. Skip anchor and quote.
        end = event.end_mark.index - (0 if event.implicit[0] else 1)
        start = end - len(event.value)
        if event.start_mark.line == event.end_mark.line and self._text[start:end] == event.value:
            column += start - event.start_mark.index + fault.offset
        self._flaw(fault.id, (line, column), fault.message, fault.fix)

    def _start(self, event: Any) -> None:
        at = _place(event)
        self._count(at)
        good = self._untagged(event)
        if len(self._open) >= MAX_DEPTH:
            _stop("E108", at, f"nested more than {MAX_DEPTH} levels deep", "make it flatter")
        is_mapping = type(event).__name__ == "MappingStartEvent"
        node = Node("mapping" if is_mapping else "list", *at, value={} if is_mapping else [], height=1)
        if event.anchor is not None:
            self._anchors[event.anchor] = node, good
        if self._wants_key():
            if not self._open[-1].drop:
                self._flaw("E102", at, "keys must be strings, got a list or a mapping", "put it in quotes")
            good = False
        in_merge = not is_mapping and bool(self._open) and self._open[-1].key is _MERGE
        self._open.append(_Open(node, drop=not good, in_merge=in_merge))

    def _end(self, _: Any) -> None:
        ended = self._open.pop()
        for source in ended.merged:
            _merge(ended.node, source)
        if ended.drop:
            self._place_dropped()
        else:
            self._put(ended.node, (ended.node.line, ended.node.column))

    # Aliases.

    def _alias(self, event: Any) -> None:
        at, name = _place(event), event.anchor
        node, good = self._anchors.get(name, (None, False))
        if node is None or any(node is each.node for each in self._open):
            self._count(at)
            if node is None:
                fix = self._nearest(name) or "define it further up, as &name in front of a value"
                self._flaw("E111", at, f"alias *{name[:_SHOWN]}: there is no such anchor before it", fix)
            else:
                message = f"alias *{name[:_SHOWN]} stands inside the value that it stands for"
                self._flaw("E111", at, message, "write the value out")
            good = False
        else:
            self._nodes += node.size
            if self._nodes > MAX_NODES:
                message = f"the file has more than {MAX_NODES} keys and values"
                message += f", {node.size} of them through the alias *{name[:_SHOWN]}"
                _stop("E108", at, message, "use fewer aliases, or split the file")
            if len(self._open) + node.height > MAX_DEPTH:
                message = f"nested more than {MAX_DEPTH} levels deep"
                message += f", {node.height} of them through the alias *{name[:_SHOWN]}"
                _stop("E108", at, message, "write the value out with fewer levels")
        if self._wants_key():
            self._alias_as_key(name, node if good else None, at)
        elif node is not None and good:
            self._put(node, at)
        else:
            self._place_dropped()

    def _alias_as_key(self, name: str, node: Node | None, at: tuple[int, int]) -> None:
        if node is not None and node.kind != "scalar":
            self._flaw("E102", at, "keys must be strings, got a list or a mapping", "write the key out")
            node = None
        elif node is not None and node.variables:
            message = f"alias *{name[:_SHOWN]}: a key cannot come from variables of the environment"
            self._flaw("E105", at, message, "write the key out")
            node = None
        self._key(node, at)

    def _nearest(self, name: str) -> str:
        if not self._suggestions:
            return ""
        self._suggestions -= 1
        near = did_you_mean(name, [*self._anchors][-_COMPARED:])
        return f"did you mean *{near}?" if near else ""

    # Nodes into their parents.

    def _wants_key(self) -> bool:
        return bool(self._open) and self._open[-1].node.kind == "mapping" and self._open[-1].key is None

    def _key(self, node: Node | None, at: tuple[int, int]) -> None:
        parent = self._open[-1]
        # A wrong key still waits for its value, so that the value is not read as a key.
        parent.key = _DROPPED
        if node is None:
            return
        name, keys = node.value, parent.node.keys
        if not isinstance(name, str):
            self._flaw("E102", at, f"keys must be strings, got {shown(name)}", "put it in quotes")
        elif name in keys:
            self._flaw("E104", at, f"duplicate key {shown(name)}, first on line {keys[name][0]}", "remove one of them")
        else:
            parent.key = name
            keys[name] = at

    def _merge_key(self, at: tuple[int, int]) -> None:
        parent = self._open[-1]
        parent.key = _MERGE
        if parent.merge_line is None:
            parent.merge_line = at[0]
        else:
            message = f"duplicate key '<<', first on line {parent.merge_line}"
            self._flaw("E104", at, message, "merge several in one list: <<: [*one, *two]")
            parent.key = _DROPPED

    def _put(self, node: Node, at: tuple[int, int]) -> None:
        """Put a node into its parent. *at* is where the file has the node or the alias for it."""
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if parent.node.kind == "list":
            if not parent.in_merge or self._can_merge(node, at):
                parent.node.items.append(node)
                parent.node.value.append(node.value)
                _grow(parent.node, node)
            return
        key, parent.key = parent.key, None
        if isinstance(key, str):
            _enter(parent.node, key, node)
        elif key is _MERGE:
            sources = node.items if node.kind == "list" else [node]
            if all(self._can_merge(source, at) for source in sources):
                parent.merged = sources

    def _can_merge(self, node: Node, at: tuple[int, int]) -> bool:
        if node.kind == "mapping":
            return True
        got = "a value from the environment" if node.variables else shown(node.value)
        message = f"<< merges a mapping or a list of mappings, got {got}"
        self._flaw("E111", at, message, "write <<: *name or <<: [*one, *two]")
        return False

    def _place_dropped(self) -> None:
        """Skip something that is left out of the tree."""
        if self._open:
            self._open[-1].node.lacks = True
        if self._open and self._open[-1].node.kind == "mapping":
            self._open[-1].key = _DROPPED if self._open[-1].key is None else None


def _place(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _stop(id: str, at: tuple[int, int], message: str, fix: str = "") -> NoReturn:
    raise StopReadingError(Flaw(id, *at, message, fix))


def _enter(mapping: Node, key: str, node: Node) -> None:
    mapping.entries[key] = node
    mapping.value[key] = node.value
    mapping.size += 1
    _grow(mapping, node)


def _grow(parent: Node, child: Node) -> None:
    parent.size += child.size
    parent.height = max(parent.height, child.height + 1)
    parent.lacks = parent.lacks or child.lacks


def _merge(mapping: Node, source: Node) -> None:
    """Add the entries of *source* that the mapping lacks. Nothing else may refer to the mapping yet."""
    for name, at in source.keys.items():
        if name not in mapping.keys:
            mapping.keys[name] = at
            if name in source.entries:
                _enter(mapping, name, source.entries[name])
