"""Seconds, no Docker, no network: what can be known without a host."""
