"""Causal attention: reference, blockwise form, TPU and GPU kernels, and their selection."""
