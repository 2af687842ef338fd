"""
What helps to test services and plugins; nothing of the core uses it, and each part is imported by itself.

* `sage_plugins.testing.virtual_clock`: `VirtualClock`, time that passes only when a test says so.
* `sage_plugins.testing.fake_replica`: `FakeReplica`, which answers, hangs or dies in virtual time as a script says.
* `sage_plugins.testing.simulation`: `Simulation`, a router with such replicas, callers and accidents, from one seed.
* `sage_plugins.testing.leak_guard`: a pytest plugin that fails every test which leaves threads, files, tasks or
  processes.
"""
