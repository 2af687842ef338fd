"""
Turns the bytes of a deployment file into its services.

`events` turns bytes into a stream of events. `nodes` builds a tree of values with places. `reader` checks them and
splits them into `layers`, one for each part of the file that configures a service. `entries` holds the result.
Imports the core's root modules, `config` and `service`.
"""
