"""Reports: a prediction, and what was measured, as one self-contained HTML file."""
