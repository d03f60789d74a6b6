"""One training run: step, prefetch, metrics, checkpoints, run directory."""
