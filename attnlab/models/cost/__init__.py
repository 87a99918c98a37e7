"""What a model costs: parameters, operations, state, and the least it can take."""
