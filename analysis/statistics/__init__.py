"""What the records say: cost, crossings, contamination, comparisons."""
