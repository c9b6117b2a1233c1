"""Elastic training runs, executed: layers freeze, and the pipeline changes with them."""
