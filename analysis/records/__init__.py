"""Results folders, as the report reads them."""
