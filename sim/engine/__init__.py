"""Engines: program + costs -> timeline."""
