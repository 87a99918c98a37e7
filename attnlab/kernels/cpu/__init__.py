"""FLA's operations in PyTorch, for tensors on the CPU."""
