"""Signals, output that may fail, and log streams: what the command line and the backends share."""
