"""Searches for a better plan: what to cut, and where, given what each piece costs."""
