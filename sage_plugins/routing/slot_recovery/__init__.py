"""
Finds and returns slots, places in the queue and calls that were lost when an exception interrupted a thread.

`docs/design/lost-slots.md` says how.
"""
