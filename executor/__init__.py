"""The real thing: the model in torch, its stages, and the run of a schedule on real devices."""
