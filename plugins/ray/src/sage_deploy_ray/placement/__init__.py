"""
What the Ray targets add to the library's placement.

`selectors` reads the options of the targets, and `this_machine` is the node of a runtime that has not started yet.
Modules here import the library, and Ray's options for their types; they do not import `ray`.
"""
