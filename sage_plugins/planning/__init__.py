"""
Decides what a deployment will be, without starting anything: the chosen plugins, the settings, the plan.

Imports `config`, `plugins`, `service`, `interfaces` and the root modules. `planner` also uses `resilience`.
"""
