"""
What a deployment will be, decided without starting anything: chosen plugins, settings, the plan.

Imports `config`, `plugins`, `service`, `interfaces` and the root modules.
"""
