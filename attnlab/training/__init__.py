"""One trial, from its folder to its results, without ray or a sweep."""
