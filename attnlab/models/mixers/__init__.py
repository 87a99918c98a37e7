"""The table of mixers: a row holds everything that is known of a mixer."""
