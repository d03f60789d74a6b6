"""Allocator settings, native code, XLA's compilation cache, and generated documentation of keys."""
