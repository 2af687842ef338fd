"""
Which expensive modules plugins import before they are needed, seen in a process that has imported nothing else.

That process runs this module: `python -m sage_deploy_cli.machine.plugin_imports`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from sage_plugins.plugins.discovery import installed
from sage_plugins.plugins.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["HEAVY", "heavy_imports"]

#: What takes so long to import that a plugin does it in `create` at the earliest: every start would pay for it.
HEAVY: Final = frozenset({"asyncio", "click", "numpy", "psutil", "ray", "sage", "starlette", "uvicorn", "yaml"})


def heavy_imports(names: Iterable[str]) -> list[str] | None:
    """
    Name the modules of `HEAVY` that are there after these plugins were discovered, in a process of their own.

    Args:
        names: Names of entry points; they are found as in this process.

    Returns:
        The modules, or None if the process did not live to say it.
    """
    # A path that was changed since the start, by a test or by PYTHONPATH's heirs, holds there too.
    request = json.dumps({"path": sys.path, "names": list(names)})
    done = subprocess.run(  # noqa: S603 - our own module, with this Python
        [sys.executable, "-m", __name__, request], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    # What plugins print while they are imported stands before it.
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main(request: str) -> None:
    wanted = json.loads(request)
    sys.path[:] = wanted["path"]
    for plugin in installed():
        if plugin.name in wanted["names"]:
            with contextlib.suppress(Exception, SystemExit):  # why it does not load is said elsewhere
                Registry([(plugin, plugin.load())])
    print(json.dumps(sorted(HEAVY & sys.modules.keys())))  # noqa: T201 - the answer to the process that asks


if __name__ == "__main__":
    _main(sys.argv[1])
