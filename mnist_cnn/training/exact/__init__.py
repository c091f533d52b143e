"""Training with exact sums.

It computes the same numbers on every machine.
"""
