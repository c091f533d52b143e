"""The command line: arguments, commands, sweeps, help, tables, the live display and the notebook view."""
