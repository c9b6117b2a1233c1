"""Who does what, in which order: actions, generators, lowering, checks. Pure data, no times."""
