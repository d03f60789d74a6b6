"""Optimizers that optax does not have as ConnorJL/GPT2 or the papers define them."""
