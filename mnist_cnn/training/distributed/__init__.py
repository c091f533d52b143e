"""Data-parallel training: connections, messages, order of sums."""
