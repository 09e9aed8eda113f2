"""What stands in for a factory.

A simulated `plant` of `simulated_machine`s, which publishes; `randomized_machine`s, which vary as widely as
`randomization` says, to learn from; `replay` of a table of measurements, which is a source; and `republish`, which
sends a spool's messages to a broker once more.
"""
