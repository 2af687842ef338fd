"""
Simulates a service of the user's own configuration in virtual time: its real router, balancer, guards and autoscaler.

`simulated` has the functions for users. `scenario` has the input of a simulation, and `results` its output. `timeline`
runs the events, `calls` makes the calls, and `replica` and `fleet` model the replicas. Imports only the core.
"""
