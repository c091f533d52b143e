"""A model as a web service with a page to draw on, and the same page as static files."""
