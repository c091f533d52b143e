"""Benchmarks, as commands: `python -m tests.benchmarks NAME`; `--help` lists them.

What is compared is measured in turns, several times, on one machine. What counts is the ratio of medians: the
figures themselves are this machine's, and the minimum is the one least disturbed by whatever else it did.
"""
