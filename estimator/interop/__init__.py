"""Files of other programs: safetensors, PyTorch, TensorFlow checkpoints, the Hub. Nothing about GPT-2."""
