"""
Generates valid deployment files for Hypothesis, with their expected results.

A file is drawn as plain values: valid values of any fields, spread over entries, a profile and the defaults. Each part
is written as YAML in one of the possible ways: flat or grouped, as a block or in brackets, as an alias or a merge key,
quoted, or as an environment variable.
"""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

from sage_plugins.config.service_config import fields

__all__ = ["TEXTS", "documents", "expected", "files"]

ODD = ["no", "Yes", "on", "y", "null", "~", "true", "1:30", "017", "0o17", "0x1F", "0b1", "1_000", "1e3", ".inf", "-.5"]
ODD += ["2001-01-01", "3", "", " ", " a ", "a\nb", "\n", "a\n", "\t", "'", '"', "\\", "\\n", "${X}", "$${X}", "$$${X}"]
ODD += ["${", "$", "<<", "=", "- a", "? a", "a: b", "a:", "a #b", "#", "%", "@a", "`a`", "*a", "&a", "!a", "|", ">"]
ODD += ["---", "...", "[a", "{a", "a, b", "\0", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff"]
ODD += ["é", "服务", "😀", "x" * 5000]
TEXTS = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
WORDS = TEXTS.map(str.strip).filter(bool)
NUMBERS = st.integers() | st.integers(-(10**250), 10**250) | st.floats(allow_nan=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=8
)
MAPPINGS = st.dictionaries(TEXTS, ANYTHING, max_size=3)

#: Maximum length of a key that YAML allows without a question mark.
MAX_KEY = 1000

#: Ranges in which the rules between fields hold, whatever the other layers set.
RANGES = {
    "batch_wait": st.floats(0, 0.5),
    "health_check_interval": st.integers(5, 9),
    "health_check_timeout": st.integers(1, 5),
    "queue_timeout": st.none() | st.integers(1, 5),
    "timeout": st.none() | st.integers(5, 60) | st.floats(5, 60),
    "timeout_strength": st.just("cooperative"),  # "kill" needs a time limit, and a target that supports it
    "wait": st.floats(0, 0.5),
    "load_balancing": st.sampled_from([True]),
    "min": st.integers(1, 2),
    "initial": st.integers(3, 4),
    "max": st.integers(5, 9),
    "max_surge": st.integers(1, 3),
    "hedge": st.none(),  # needs more replicas than a file may set here
    "recycle": st.fixed_dictionaries({"max_calls": st.integers(1, 9)}, optional={"max_age": st.integers(1, 9)}),
}


#: Strategy of each field, by the identity of its declaration: creating one takes longer than drawing from it.
_VALUES = {}


def value_of(info):
    """Return a strategy for any valid value of a field."""
    if id(info) not in _VALUES:
        _VALUES[id(info)] = _value_of(info)
    return _VALUES[id(info)]


def _value_of(info):
    if info.name in RANGES:
        return RANGES[info.name]
    low, high = info.minimum or 0, min(info.maximum or 1000, 1000)
    values = {
        "integer": lambda: st.integers(int(low), int(high)),
        "number": lambda: st.integers(1, max(1, int(high))) | st.floats(low, high, exclude_min=info.exclusive),
        "boolean": st.booleans,
        "string": lambda: st.sampled_from(info.choices) if info.choices else WORDS,
        "strings": lambda: st.lists(WORDS, max_size=3, unique=True),
        "labels": lambda: st.dictionaries(TEXTS, WORDS, max_size=3),
        "mapping": lambda: of_keys(info.keys) if info.keys else MAPPINGS,
        "methods": lambda: st.dictionaries(st.sampled_from(["find", "add", "größe"]), of_keys(info.keys), max_size=3),
        "batch": lambda: st.sampled_from([True]) | of_keys(info.keys),
        "options": lambda: st.dictionaries(WORDS, MAPPINGS, max_size=3),
    }[info.kind]()
    return st.none() | values if info.optional else values


def of_keys(infos):
    return st.fixed_dictionaries({}, optional={name: value_of(info) for name, info in infos.items()})


@st.composite
def layers(draw, infos):
    """Draw the fields that one mapping of the file sets."""
    names = draw(st.lists(st.sampled_from(list(infos)), max_size=6, unique=True))
    return {name: draw(value_of(infos[name])) for name in names}


# `replicas` and `autoscale` exclude each other, so a file has only one of them.
FIELDS = {
    leave_out: {name: info for name, info in fields().items() if name != leave_out}
    for leave_out in ("replicas", "autoscale")
}


OWN = st.fixed_dictionaries(
    {},
    optional={
        "class": st.sampled_from(["a:B", "a.b:C.D"]),
        "init": st.fixed_dictionaries({}, optional={"args": st.lists(ANYTHING, max_size=2), "kwargs": MAPPINGS}),
    },
)
LAYERS = {leave_out: layers(infos) for leave_out, infos in FIELDS.items()}
ENTRIES = {
    leave_out: st.tuples(layer, OWN).map(lambda both: {"load_balancing": True} | both[0] | both[1])
    for leave_out, layer in LAYERS.items()
}
OPTIONS = st.dictionaries(WORDS, MAPPINGS, max_size=2)
NAMES = st.lists(st.sampled_from(["kv", "no", "a-b"]), min_size=1, max_size=3, unique=True)


@st.composite
def documents(draw):
    leave_out = draw(st.sampled_from(sorted(FIELDS)))
    layer, entry, names = LAYERS[leave_out], ENTRIES[leave_out], draw(NAMES)
    return {
        "options": draw(OPTIONS),
        "defaults": draw(layer),
        "profiles": {
            "busy": {
                "defaults": draw(layer),
                "services": draw(st.dictionaries(st.sampled_from(names), entry, max_size=2)),
            }
        },
        "services": {name: draw(entry) for name in names},
    }


def merged(over, under):
    if not (isinstance(over, Mapping) and isinstance(under, Mapping)):
        return over
    return {**under, **over, **{name: merged(over[name], under[name]) for name in over.keys() & under.keys()}}


def expected(document, profile):
    """Return the expected settings of a document's services."""
    chosen = document["profiles"][profile] if profile else {}
    services = {}
    for name, entry in document["services"].items():
        found = chosen.get("services", {}).get(name, {})
        for under in (entry, chosen.get("defaults", {}), document["defaults"]):
            found = merged(found, under)
        services[name] = dict(found)
        init = {key: value for key, value in services[name].pop("init", {}).items() if value}
        if init:
            services[name]["init"] = init
    return services


class Writer:
    """
    Writes a document as YAML.

    Attributes:
        environment: The variables that the text names.
    """

    def __init__(self, draw):
        self._draw = draw
        self._anchors = {}
        self._open = set()
        self.environment = {}

    def _maybe(self, one_in=4):
        # Hypothesis shrinks to zero, so zero is the usual way.
        return self._draw(st.integers(0, one_in - 1)) == one_in - 1

    def document(self, document):
        lines = []
        for name, value in document.items():
            if name == "services" or value:
                lines += self._block(name, value, "", {"options": ""}.get(name, name))
        return "\n".join(lines) + "\n"

    def _block(self, name, value, indent, part):
        """Return the lines of one key. *part* is the part of the file that its value is, or "" below the fields."""
        start = indent + self._key(name, f"\n{indent}")
        if part in {"entry", "defaults"}:
            value = _in_groups(value, lambda: self._maybe(2))
        if not isinstance(value, dict) or not value or (not part and self._maybe()):
            return [f"{start} {self._inline(value, alone=True)}"]
        alias = self._alias(value)
        if alias:
            return [f"{start} {alias}"]
        anchor = self._anchor()
        lines = [f"{start} {anchor}".rstrip()]
        items = list(value.items())
        if not part and self._maybe():
            cut = self._draw(st.integers(0, len(items)))
            lines.append(f"{indent}  <<: {self._inline(dict(items[cut:]))}")
            items = items[:cut]
        below = {"services": "entry", "profiles": "profile"}.get(part)
        for key, child in items:
            lines += self._block(key, child, indent + "  ", key if part == "profile" else below or "")
        self._close(anchor, value)
        return lines

    def _alias(self, value):
        """Return an alias for an equal value that has an anchor, or an empty string."""
        name = self._anchors.get(repr(value))
        return f"*{name} " if name and self._maybe(2) else ""

    def _anchor(self):
        """Return the beginning of an anchored value, or an empty string for a value without anchor."""
        name = f"a{self._draw(st.integers(0, 99))}"
        if name in self._open or not self._maybe():
            return ""
        self._open.add(name)
        # After its second definition, an anchor refers to the later value.
        self._anchors = {known: other for known, other in self._anchors.items() if other != name}
        return f"&{name} "

    def _close(self, anchor, value):
        """Allow aliases for a value after its end: within itself, an alias is not valid."""
        if anchor:
            name = anchor[1:-1]
            self._open.remove(name)
            self._anchors[repr(value)] = name

    def _inline(self, value, *, alone=False):
        """Return a value on one line. *alone*: no brackets surround it."""
        alias = self._alias(value)
        if alias:
            return alias
        anchor = self._anchor()
        if isinstance(value, dict):
            items = [f"{self._key(key, ' ')} {self._inline(child)}" for key, child in value.items()]
            text = "{" + ", ".join(items) + "}"
        elif isinstance(value, list):
            text = f"[{', '.join(map(self._inline, value))}]"
        elif isinstance(value, str):
            text = self._text(value)
        else:
            text = _core(value)
            if alone and self._maybe():
                text = self._variable(text)
        self._close(anchor, value)
        return anchor + text

    def _key(self, name, space):
        text = self._text(name, key=True)
        # Longer keys need a question mark, which saves the parser a long look ahead.
        return f"{text}:" if len(text) < MAX_KEY else f"? {text}{space}:"

    def _variable(self, text):
        name = f"V{len(self.environment)}"
        self.environment[name] = text
        return f"${{{name}}}"

    def _text(self, text, *, key=False):
        if not key:
            if text.isprintable() and self._maybe():
                return f'"{self._variable(text)}"'
            text = text.replace("${", "$${")
        if text.isprintable() and self._maybe(2):
            return "'" + text.replace("'", "''") + "'"
        return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def _in_groups(entry, maybe):
    """Return the entry with some of its fields in their groups."""
    grouped = {}
    for name, value in entry.items():
        info = fields().get(name)
        if info is not None and info.group is not None and maybe():
            grouped.setdefault(info.group, {})[name] = value
        else:
            grouped[name] = value
    return grouped


def _core(value):
    """Return a value that is no text, as YAML's core schema spells it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).replace("inf", ".inf")


@st.composite
def files(draw):
    """Draw a document, its text, and the environment that the text needs."""
    document = draw(documents())
    writer = Writer(draw)
    return document, writer.document(document), writer.environment
