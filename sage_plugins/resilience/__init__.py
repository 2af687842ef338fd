"""
State machines that decide what happens after a failure, such as when a replica is started again.

They are pure: no clock is read and no thread started here; time and chance come from the caller. Imports the root
modules only.
"""
