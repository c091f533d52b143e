from helpers.cli import ask, home

__all__ = ["ask", "home"]
