"""
Values that leave a process and come in: arguments, results and exceptions as payloads.

A payload is a pickle with its large buffers beside it. Modules here import each other, the core's errors and
cloudpickle. They know no substrate: what a substrate needs for its own objects is given to them as a `Substrate`.
"""
