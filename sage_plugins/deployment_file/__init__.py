"""
The deployment file, from its bytes to services with a place for every value.

`events` makes bytes a stream of events, `nodes` makes these a tree of values with places, `reader` checks them and
takes them apart into `layers`, one for each part of the file that speaks of a service, and puts these together again.
"""

from __future__ import annotations

from sage_plugins.deployment_file.dump import dump
from sage_plugins.deployment_file.problems import FileProblem, Position
from sage_plugins.deployment_file.reader import DeploymentFile, ServiceEntry, entry_config, file_problem, read

__all__ = [
    "DeploymentFile",
    "FileProblem",
    "Position",
    "ServiceEntry",
    "dump",
    "entry_config",
    "file_problem",
    "read",
]
