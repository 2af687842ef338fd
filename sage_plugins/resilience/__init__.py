"""
State machines that decide what happens after a failure or under load, such as when a replica is started again.

They are pure: they read no clock and start no thread. The caller passes the time and the random numbers. Imports only
the root modules, `config` and `interfaces`.
"""
