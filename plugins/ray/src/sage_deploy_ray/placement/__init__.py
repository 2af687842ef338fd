"""
Placement for the Ray targets, on top of the remote library's.

`selectors` reads the options of the targets. `this_machine` describes the node of a private runtime that has not
started. Modules here import the library, and Ray's options for their types; they do not import `ray`.
"""
