"""What is to happen in a simulation: durations of methods, loads, faults, and how the command line spells them."""
