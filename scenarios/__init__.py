"""Scenarios: what is to be simulated or run. Schema, loader, and the catalogue of YAML files."""
