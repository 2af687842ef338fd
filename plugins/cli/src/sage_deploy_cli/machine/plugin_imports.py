"""
Finds expensive modules that plugins import before they need them, in a process that has imported nothing else.

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

#: Modules that take long to import. A plugin imports them in `create` or later, so that starts stay fast.
HEAVY: Final = frozenset({"asyncio", "click", "numpy", "psutil", "ray", "sage", "starlette", "uvicorn", "yaml"})


def heavy_imports(names: Iterable[str]) -> list[str] | None:
    """
    Return the modules of `HEAVY` that discovery of these plugins imports, in a process of their own.

    Args:
        names: Names of entry points. The process finds them on this process's path.

    Returns:
        The modules, or None if the process ended without an answer.
    """
    # This process's path may have changed since its start, so the new process gets it as it is now.
    request = json.dumps({"path": sys.path, "names": list(names)})
    done = subprocess.run(  # noqa: S603 - our own module, with this Python
        [sys.executable, "-m", __name__, request], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    # Plugins may print while they are imported, so the answer is the last line.
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main(request: str) -> None:
    wanted = json.loads(request)
    sys.path[:] = wanted["path"]
    for plugin in installed():
        if plugin.name in wanted["names"]:
            with contextlib.suppress(Exception, SystemExit):  # `check_plugins` reports why it does not load
                Registry([(plugin, plugin.load())])
    print(json.dumps(sorted(HEAVY & sys.modules.keys())))  # noqa: T201 - the parent process reads it


if __name__ == "__main__":
    _main(sys.argv[1])
