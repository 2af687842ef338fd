"""
Chooses the node of a cluster for each replica, from plain values only.

`nodes` describes nodes. `label_selectors` and `selection` say which nodes a configuration allows. `decision` chooses
one of them for a replica, with a reason for every node. Modules here import each other and the core's public modules.
"""
