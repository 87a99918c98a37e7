"""Linear recurrences, delta rules and scans, chunked, in PyTorch."""
