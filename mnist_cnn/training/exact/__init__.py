"""Training whose sums never round, so that it computes the same numbers on every machine."""
