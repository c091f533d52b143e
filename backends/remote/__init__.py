"""The common part of all cluster backends.

Knows no service; `service.py` says what one must define.
"""
