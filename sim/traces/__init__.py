"""Traces of users' own runs, read into measurements."""
