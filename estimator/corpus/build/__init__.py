"""From documents to shards: plan, tokenize, select, shuffle and write, resumable after each step. No JAX."""
