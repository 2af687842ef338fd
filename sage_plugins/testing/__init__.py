"""
What helps to test services and plugins; nothing of the core uses it, and each part is imported by itself.

* `sage_plugins.testing.virtual_clock`: `VirtualClock`, time that passes only when a test says so.
* `sage_plugins.testing.simulation`: `Simulation`, a router with replicas that hang, answer late and die, in virtual time, from
  one seed; and `FakeReplica`, one such replica.
* `sage_plugins.testing.leak_guard`: a pytest plugin that fails every test which leaves threads, files, tasks or processes.
"""
