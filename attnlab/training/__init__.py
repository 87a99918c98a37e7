"""One trial, from its folder to its results; it knows neither ray nor a sweep."""
