"""Ahead-of-time compilation for a machine that is not here (`--rehearse`): memory, time and traffic of a step."""
