"""What is wrong with a sweep, in one line per mistake."""
