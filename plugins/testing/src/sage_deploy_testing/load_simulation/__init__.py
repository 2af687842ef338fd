"""
A service of the user's own configuration in virtual time: its real router, balancer, guards and autoscaler.

`simulated` has what users call, `scenario` what is to happen, `results` what has happened. `timeline` runs the events;
`calls` makes the calls, `replica` and `fleet` stand in for what would run them. Imports the core alone.
"""
