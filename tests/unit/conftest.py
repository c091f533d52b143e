from helpers.submissions import submitted

__all__ = ["submitted"]
