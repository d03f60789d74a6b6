"""The installed package: the command `gpt2`, and the repository's programs and libraries in `gpt2/programs`."""
