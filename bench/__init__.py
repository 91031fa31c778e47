"""What esazure costs next to others: `make bench`. Read `__main__.py`, then `measuring.py`."""
