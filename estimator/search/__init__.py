"""Finding settings: a learning-rate range test, and sweeps of many runs."""
