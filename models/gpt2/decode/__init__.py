"""Generation: sampling, key-value cache, quantized matrices."""
