"""
From the bytes of a deployment file to its services.

`events` makes bytes a stream of events, `nodes` makes these a tree of values with places, `reader` checks them and
takes them apart into `layers`, one for each part of the file that speaks of a service; `entries` is what comes of it.
Imports the core's root modules, `config` and `service`.
"""
