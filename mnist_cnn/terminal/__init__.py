"""Signals, output that may vanish, and streams of log lines, for the command line and the backends."""
