"""
This process's connection to its Ray cluster, questions to the cluster, and readable texts for Ray's errors.

The other packages use `connection`. Modules here import each other, the library's values for nodes, and the core's
errors. They import `ray` when they first need it.
"""
