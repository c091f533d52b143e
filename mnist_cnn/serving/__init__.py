"""A model as web service or static files.

Both have a page to draw on.
"""
