"""Files on disk: atomic writes, locks, limited reads."""
