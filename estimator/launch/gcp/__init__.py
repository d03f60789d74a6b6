"""Google Cloud TPUs: Compute Engine and the TPU API, creation and cleanup."""
