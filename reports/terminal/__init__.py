"""What is told on a terminal."""
