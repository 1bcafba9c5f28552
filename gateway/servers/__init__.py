"""Servers of one's own, from wheels: for one machine, and for tests."""
