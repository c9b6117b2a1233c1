"""How long work takes: device and link models, collectives, measured profiles, their fits."""
