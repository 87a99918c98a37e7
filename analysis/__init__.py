"""Read a sweep's results folder and say what it shows; nothing trains."""
