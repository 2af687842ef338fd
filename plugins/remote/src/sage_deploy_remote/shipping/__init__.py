"""
What a replica is made of, sent to the process that makes it.

`specs` packs a replica's spec, `modules` sends the caller's own modules along as source text, and `versions` says which
protocol a process speaks. Modules here import `payloads` and the core's public modules.
"""
