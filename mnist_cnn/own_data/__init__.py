"""Reads your own data, class folders and .npz files, and converts them to four IDX files."""
