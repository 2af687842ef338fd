"""
A deployed service under a Hypothesis state machine. tests/deployment/test_local_machine.py runs it.

* `setting`: how the service is deployed, and what Hypothesis draws for that.
* `service`: the service, its calls, and what its instances observe.
* `model`: the expected results of the calls, computed without threads.
* `deployment`: the service together with its model, and their comparison.
* `machine`: the steps that are applied to both.
"""
