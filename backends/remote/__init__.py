"""What runs on every cluster have in common. Knows no service; `service.py` says what one owes."""
