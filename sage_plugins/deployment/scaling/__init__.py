"""
Autoscaling: measures the load of a service, and carries out what `resilience.autoscaling` decides.

Imports `deployment.replicas`, `resilience`, `routing` and everything below. Services with a fixed number of replicas
never import it.
"""
