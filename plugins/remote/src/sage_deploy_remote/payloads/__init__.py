"""
Packs values that leave a process, and unpacks them: arguments, results and exceptions as payloads.

A payload is a pickle with its large buffers separate. Modules here import each other, the core's errors and
cloudpickle. They know no substrate: they get what a substrate needs for its own objects as a `Substrate`.
"""
