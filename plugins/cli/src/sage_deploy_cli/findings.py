"""Formats findings: status, what was checked, what was found, and how to fix it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_deploy_cli.output import printable, state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_plugins.findings import Finding

__all__ = ["finding_lines"]

_WIDTH = len("warning") + 1


def finding_lines(finding: Finding, name_width: int = 0) -> Iterator[str]:
    """Yield the line with what was found, and a second one with the fix if there is one."""
    name = f"{finding.name}:".ljust(name_width + 1)
    yield f"{state(finding.status, _WIDTH)}{printable(f'{name} {finding.found}')}"
    if finding.fix:
        yield f"{'':<{_WIDTH}}{printable(f'-> {finding.fix}')}"
