"""Triton kernels of our own, and how FLA's are tuned and called on CUDA."""
