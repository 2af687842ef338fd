"""
Finds slots, places in the queue and calls that an exception between two steps of a thread has lost.

`docs/design/lost-slots.md` says how.
"""
