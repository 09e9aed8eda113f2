"""What stands in for a factory: a simulated `plant` of `simulated_machine`s, and `replay` of what was recorded."""
