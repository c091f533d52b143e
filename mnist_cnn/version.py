"""The version of this package, for those of its modules that stand below the package's own page."""

__version__ = "0.1.0"
