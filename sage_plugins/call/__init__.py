"""
One call: the object that is both work item and future, its batches and streams, and the detection of deadlocks.

Imports the root modules and `service`.
"""
