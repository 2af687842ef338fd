"""
What a deployment will be, decided without starting anything: the chosen plugins, the settings with their origins, the plan.

Imports `config`, `plugins`, `service`, `interfaces` and the root modules.
"""
