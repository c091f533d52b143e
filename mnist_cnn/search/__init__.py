"""Search for the settings with the best validation accuracy.

ranges.py     what is searched
halving.py    which trial trains next, and how far; pure
study.py      the trials, in a journal file
entry.py      a trial, its run and its outcome
searcher.py   starts, pauses and continues the trials' runs
plot.py       search.png
"""
