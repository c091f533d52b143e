"""The command line, the live display and the notebook view."""
