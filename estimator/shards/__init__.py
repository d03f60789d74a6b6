"""Token files: TFRecord shards with an index, .npy, .npz and .bin. No JAX."""
