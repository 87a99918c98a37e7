"""A sweep file becomes a checked, resolved plan."""
