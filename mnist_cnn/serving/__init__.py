"""A model as a web service, or as static files.

Both have a page to draw on.
"""
