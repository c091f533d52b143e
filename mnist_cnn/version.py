"""The version of this package, for modules that cannot import the package itself."""

__version__ = "0.1.0"
