"""Spans, and all that is computed from spans: figures, critical path, memory curve, trace files."""
