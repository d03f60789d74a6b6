"""Prompts in, text out: completions and chat sessions."""
