"""The command line, live display and notebook view."""
