"""What a given layout's time hangs on: what were free, one change away, inputs, scaling."""
