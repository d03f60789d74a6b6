"""Figures, live pages and reports of runs. Knows no model and no JAX."""
