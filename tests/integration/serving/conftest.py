from helpers.cli import ask, completed_run, home

__all__ = ["ask", "completed_run", "home"]
