"""Throw-away hosts on this machine to deploy to: `python -m lab --help`."""
