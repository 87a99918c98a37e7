"""Reads a sweep's results folder and says what it shows. It imports neither torch nor ray, and starts no training."""
