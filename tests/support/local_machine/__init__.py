"""
A deployed service under a Hypothesis state machine; tests/test_local_machine.py runs it.

* `setting`: how the service is deployed, and what Hypothesis draws of that.
* `service`: the service, its calls, and what its instances see.
* `model`: what should become of the calls, without threads.
* `machine`: does the same to the service and to the model, and compares.
"""
