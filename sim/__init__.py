"""The model: schedules, workload, cost, engines, timelines and decisions. Imports no torch."""
