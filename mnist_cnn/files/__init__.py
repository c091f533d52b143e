"""Files on disk: written atomically, locked, and read within limits."""
