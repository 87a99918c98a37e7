"""What the terminal shows, and how Ctrl-C ends a sweep."""
