"""
Services that grow and shrink by themselves: the load is looked at, and what `resilience.autoscaling` decides is done.

Imports `deployment.replicas`, `resilience`, `routing` and everything below. Services with a fixed number of replicas
import nothing of it.
"""
