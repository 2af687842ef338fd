"""
The files that the commands keep on disk: the record of a running `up`, and saved plans.

Imports the core and `sage_deploy_files`.
"""
