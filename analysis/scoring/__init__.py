"""Checkpoints scored on benchmarks."""
