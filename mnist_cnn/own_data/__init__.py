"""Data of one's own: class folders and .npz files, converted to four IDX files."""
