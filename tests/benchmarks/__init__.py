"""Benchmarks: `python -m tests.benchmarks NAME`. `--help` lists them.

Contestants are measured in turns, several times, on one machine. Compare ratios of medians: the absolute
figures depend on the machine. The minimum is the figure that other work on the machine disturbed least.
`identity` and `golden` measure no time: they compare weights.
"""
