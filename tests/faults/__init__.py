"""Campaigns that are too long for a test: `python -m tests.faults NAME`; `--help` lists them.

Each is a matrix of cases and ends in a table. If a ledger is named, `requests` records its finished cases
there and does not repeat them.
"""
