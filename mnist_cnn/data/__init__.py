"""Data sets of IDX files: packaged, downloaded or local."""
