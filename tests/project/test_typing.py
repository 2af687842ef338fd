"""
typing_tests/ covers every public name and every plugin. `make lint` runs both type checkers on it.

Without that, a name could be `Any` for its users and nobody would notice.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sage_plugins
from sage_plugins.plugins.registry import Registry
from sage_plugins.values import Where

FOLDER = Path(__file__).parent.parent.parent / "typing_tests"
FIRST_PARTY = [
    pytest.param(kind, entry.registration, id=f"{kind} {id}")
    for (kind, id), entry in Registry.discover().entries().items()
    if entry.plugin.distribution.startswith("sage-deploy")
]


def names_in(file):
    """Return every name that the file uses, not only imports."""
    tree = ast.parse((FOLDER / file).read_text(encoding="utf-8"))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("name", sage_plugins.__all__)
def test_every_public_name_has_its_type_checked(name):
    """typing_tests/exports.py uses every public name."""
    assert name in names_in("exports.py"), f"typing_tests/exports.py says nothing of {name}"


@pytest.mark.parametrize(("kind", "registration"), FIRST_PARTY)
def test_every_plugin_is_assigned_to_its_interface(kind, registration):
    """typing_tests/interfaces.py assigns every first-party plugin to its protocol."""
    options, shared = registration.options_class(), registration.environment_options
    environment = [] if shared is None else [shared.options_class()()]
    where = [Where("svc", "env")] if kind == "load balancer" else []
    made = type(registration.create(options and options(), *where, *environment)).__name__
    assert made in names_in("interfaces.py"), f"typing_tests/interfaces.py does not assign {made} to its protocol"
