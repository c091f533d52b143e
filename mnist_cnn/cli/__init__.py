"""The command line: arguments, commands, sweeps, help, tables and the live display."""
