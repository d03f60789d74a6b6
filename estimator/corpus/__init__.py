"""Documents and conversations out of files: formats, cleaning, filters, near-duplicates. No JAX."""
