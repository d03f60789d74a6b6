"""Tokenizers of three kinds behind one interface, and training them. No JAX."""
