"""
This process and its Ray cluster: the connection, what can be asked of it, and what Ray says in words for people.

`connection` is what the other packages use. Modules here import each other, the library's values for nodes, and the
core's errors; they import `ray` when they first need it.
"""
