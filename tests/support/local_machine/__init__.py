"""
A deployed service under a Hypothesis state machine; tests/deployment/test_local_machine.py runs it.

* `setting`: how the service is deployed, and what Hypothesis draws of that.
* `service`: the service, its calls, and what its instances see.
* `model`: what should become of the calls, without threads.
* `deployment`: the service beside its model, and the comparison of the two.
* `machine`: what is done to both.
"""
