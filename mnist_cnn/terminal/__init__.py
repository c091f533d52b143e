"""Signals, output that may fail, and log streams."""
