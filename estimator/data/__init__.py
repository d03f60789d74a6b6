"""From shards to batches: token streams, samplers, mixtures and splits, each a function of (seed, step). No JAX."""
