"""Layout search: which degrees, schedule and savings of memory suit a model and a cluster best."""
