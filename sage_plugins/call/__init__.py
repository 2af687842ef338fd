"""
Calls: the object that is both work item and future, batches, streams, and the detection of deadlocks.

Imports the root modules and `service`.
"""
