"""What the commands do, and the options they take."""
