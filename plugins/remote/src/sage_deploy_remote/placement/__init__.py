"""
Which node of a cluster each replica goes to, decided from plain values alone.

`nodes` says what a node is, `label_selectors` and `selection` which nodes a configuration allows, and `decision` which
of them a replica gets, with the reason for every node. Modules here import each other and the core's public modules.
"""
