"""Which bytes go where in an iteration, and how busy the links are."""
