"""GPT-2 weights of other programs, in and out."""
