"""What is measured of the product itself; each module is a script."""
