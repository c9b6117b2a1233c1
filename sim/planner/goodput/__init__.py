"""A training run among failures: checkpoints, restarts and slow devices, in time and money."""
