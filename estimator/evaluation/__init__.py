"""Evaluation: exact losses of text, scores of tokens, and tasks by log-likelihood. Knows no model.

windows: which tokens the model sees together, and which of them it is scored on. scorer: log-likelihoods of windows on
all devices. perplexity, tasks: numbers made of them.
"""
