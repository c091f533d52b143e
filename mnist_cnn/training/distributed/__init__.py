"""Data-parallel training: how workers connect, what they exchange, in which order sums are taken."""
