"""Files, text and errors: what every other package builds on."""
