"""The page: its sections, tables and words."""
