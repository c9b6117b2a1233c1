"""Sweeps: a scenario simulated at many points, in parallel, into a file that can be resumed."""
