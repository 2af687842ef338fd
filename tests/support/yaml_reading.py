"""Reads the YAML of a test: its value, its nodes, or its flaws with their places."""

from __future__ import annotations

from sage_deploy_files.reading.nodes import read_nodes


def root(text, **environment):
    """Return the root of a file without flaws."""
    node, flaws = read_nodes(text.encode(), environment)
    assert flaws == []
    return node


def value(text, **environment):
    return root(text, **environment).value


def flaws(text, **environment):
    return read_nodes(text.encode(), environment)[1]


def found(text, **environment):
    """Return the place and rule of each flaw."""
    return [f"{flaw.line}:{flaw.column} {flaw.id}" for flaw in flaws(text, **environment)]


def only(text, **environment):
    """Return the only flaw."""
    (flaw,) = flaws(text, **environment)
    return flaw


def nodes(node):
    """Return every node of a tree, each once even if it is shared."""
    seen, pending = {id(node): node}, [node]
    while pending:
        top = pending.pop()
        for child in (*top.items, *top.entries.values()):
            if id(child) not in seen:
                seen[id(child)] = child
                pending.append(child)
    return list(seen.values())


def as_written(node):
    """Count the keys and values of a tree as if all aliases were written out."""
    inside = [*node.items, *node.entries.values()]
    return 1 + len(node.entries) + sum(map(as_written, inside))
