"""What must hold whatever fails, tried case by case: `python -m tests.faults NAME`; `--help` lists them.

Each is a matrix of cases that is too long for a test and ends in a table. A case of `requests` that is
finished is a line of the ledger, where one is named, and is not run again.
"""
